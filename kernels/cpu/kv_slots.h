#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/e4m3.h"
#include "kernels/cpu/half.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

constexpr bool is_page_type(DType dtype) { return is_float_storage(dtype) || has_page_scales(dtype); }

// The largest element of a head that is stored as zeros: below, 448 / largest would overflow.
inline constexpr float kNoPageScale = 0x1p-118f;

// Writes `size` floats as kI8 or kE4M3, `step` apart, and returns the factor that turns them back. What is not finite
// makes the factor so, and everything read with it.
inline float store_scaled(const float* values, std::size_t size, DType dtype, std::uint8_t* to, std::size_t step) {
  const float limit = dtype == DType::kI8 ? 127 : kMaxE4M3;
  float largest = 0;
  bool is_finite = true;
  for (std::size_t i = 0; i < size; ++i) {
    is_finite = is_finite && std::isfinite(values[i]);
    largest = std::max(largest, std::abs(values[i]));
  }
  const float inverse = is_finite && largest > kNoPageScale ? limit / largest : 0;
  for (std::size_t i = 0; i < size; ++i) {
    const float scaled = inverse != 0 ? values[i] * inverse : 0;
    to[i * step] = dtype == DType::kI8
                       ? static_cast<std::uint8_t>(static_cast<std::int8_t>(scaled + (scaled < 0 ? -0.5f : 0.5f)))
                       : e4m3_of_f32(scaled);
  }
  return is_finite ? largest / limit : NAN;
}

inline float load_scaled(const void* data, DType dtype, std::size_t index, float scale) {
  if (dtype == DType::kI8) return scale * float(static_cast<const std::int8_t*>(data)[index]);
  return scale * f32_of_e4m3(static_cast<const std::uint8_t*>(data)[index]);
}

// One token's key and value of one head, (head_dim) each.
inline void store_key(const float* key, const PagedKv& kv, std::size_t slot, std::size_t kv_head) {
  const std::size_t first = kv.key_index(slot, kv_head);
  if (has_page_scales(kv.dtype)) {
    kv.key_scales[kv.scale_index(slot, kv_head)] =
        store_scaled(key, kv.head_dim, kv.dtype, static_cast<std::uint8_t*>(kv.keys) + first, kv.block_size);
    return;
  }
  for (std::size_t i = 0; i < kv.head_dim; ++i) store_from_f32(key[i], kv.keys, kv.dtype, first + i * kv.block_size);
}

inline void store_value(const float* value, const PagedKv& kv, std::size_t slot, std::size_t kv_head) {
  const std::size_t first = kv.value_index(slot, kv_head);
  if (has_page_scales(kv.dtype)) {
    kv.value_scales[kv.scale_index(slot, kv_head)] =
        store_scaled(value, kv.head_dim, kv.dtype, static_cast<std::uint8_t*>(kv.values) + first, 1);
    return;
  }
  for (std::size_t i = 0; i < kv.head_dim; ++i) store_from_f32(value[i], kv.values, kv.dtype, first + i);
}

// One element of a token's key or value.
inline float load_key(const PagedKv& kv, std::size_t slot, std::size_t kv_head, std::size_t i) {
  const std::size_t index = kv.key_index(slot, kv_head) + i * kv.block_size;
  if (!has_page_scales(kv.dtype)) return load_as_f32(kv.keys, kv.dtype, index);
  return load_scaled(kv.keys, kv.dtype, index, kv.key_scales[kv.scale_index(slot, kv_head)]);
}

inline float load_value(const PagedKv& kv, std::size_t slot, std::size_t kv_head, std::size_t i) {
  const std::size_t index = kv.value_index(slot, kv_head) + i;
  if (!has_page_scales(kv.dtype)) return load_as_f32(kv.values, kv.dtype, index);
  return load_scaled(kv.values, kv.dtype, index, kv.value_scales[kv.scale_index(slot, kv_head)]);
}

}  // namespace troupe::kernels
