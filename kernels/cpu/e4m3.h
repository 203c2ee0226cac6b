#pragma once

#include <bit>
#include <cstdint>
#include <limits>

namespace troupe::kernels {

// Scalar conversions of E4M3, the 8-bit floating point numbers of the Open Compute Project's OFP8 (Micikevicius et al.
// 2022): 4 bits of exponent, biased by 7, and 3 of mantissa; no infinities, and all ones is a NaN.

inline constexpr float kMaxE4M3 = 448;

inline float f32_of_e4m3(std::uint8_t bits) {
  const std::uint32_t sign = std::uint32_t{bits & 0x80u} << 24;
  const std::uint32_t magnitude = bits & 0x7fu;
  if (magnitude == 0x7f) return std::numeric_limits<float>::quiet_NaN();
  if (magnitude < 8) {  // subnormal: magnitude * 2^-9 is exact
    const float value = static_cast<float>(magnitude) * 0x1p-9f;
    return sign ? -value : value;
  }
  return std::bit_cast<float>(sign | ((magnitude << 20) + (120u << 23)));
}

// Rounds to nearest, ties to even; what is beyond kMaxE4M3, infinities included, becomes that.
inline std::uint8_t e4m3_of_f32(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint8_t>(bits >> 24 & 0x80);
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7f;
  if (magnitude >= std::bit_cast<std::uint32_t>(kMaxE4M3)) return sign | 0x7e;
  if (magnitude < std::bit_cast<std::uint32_t>(0x1p-6f)) {
    // Below 2^-6: adding 2^14 leaves round(|value| / 2^-9) in the low mantissa bits, rounded by the adder.
    const float shifted = std::bit_cast<float>(magnitude) + 0x1p14f;
    return static_cast<std::uint8_t>(sign |
                                     (std::bit_cast<std::uint32_t>(shifted) - std::bit_cast<std::uint32_t>(0x1p14f)));
  }
  const std::uint32_t rounded = magnitude - (120u << 23) + 0x7ffff + (magnitude >> 20 & 1);
  return static_cast<std::uint8_t>(sign | rounded >> 20);
}

}  // namespace troupe::kernels
