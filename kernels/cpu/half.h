#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#include "kernels/tensor.h"

namespace troupe::kernels {

// Scalar conversions of the 16-bit storage types. Narrowing rounds to nearest, ties to even; a NaN stays a quiet NaN;
// what is too large for F16 becomes infinite.

inline float f32_of_bf16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

inline std::uint16_t bf16_of_f32(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float f32_of_f16(std::uint16_t bits) {
  const std::uint32_t sign = std::uint32_t{bits & 0x8000u} << 16;
  const std::uint32_t magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00) {
    const std::uint32_t quiet = magnitude > 0x7c00 ? 0x400000u : 0u;
    return std::bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ff) << 13 | quiet);
  }
  if (magnitude < 0x400) {  // subnormal: magnitude * 2^-24 is exact
    const float value = static_cast<float>(magnitude) * 0x1p-24f;
    return sign ? -value : value;
  }
  return std::bit_cast<float>(sign | ((magnitude << 13) + (112u << 23)));
}

inline std::uint16_t f16_of_f32(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00 | (magnitude >> 13 & 0x3ff));
  if (magnitude >= 0x477ff000u) return sign | 0x7c00;  // 65520 and more round to infinity
  if (magnitude < 0x38800000u) {
    // Below 2^-14: adding 0.5 leaves round(|value| / 2^-24) in the low mantissa bits, rounded by the adder.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return static_cast<std::uint16_t>(sign |
                                      (std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(0.5f)));
  }
  const std::uint32_t rounded = magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1);
  return static_cast<std::uint16_t>(sign | rounded >> 13);
}

// Element `index` of an array of a storage type (kF32, kF16 or kBF16).
inline float load_as_f32(const void* data, DType dtype, std::size_t index) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, static_cast<const char*>(data) + index * sizeof value, sizeof value);
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(data) + index * sizeof bits, sizeof bits);
  return dtype == DType::kF16 ? f32_of_f16(bits) : f32_of_bf16(bits);
}

inline void store_from_f32(float value, void* data, DType dtype, std::size_t index) {
  if (dtype == DType::kF32) {
    std::memcpy(static_cast<char*>(data) + index * sizeof value, &value, sizeof value);
    return;
  }
  const std::uint16_t bits = dtype == DType::kF16 ? f16_of_f32(value) : bf16_of_f32(value);
  std::memcpy(static_cast<char*>(data) + index * sizeof bits, &bits, sizeof bits);
}

constexpr bool is_float_storage(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kF16 || dtype == DType::kBF16;
}

}  // namespace troupe::kernels
