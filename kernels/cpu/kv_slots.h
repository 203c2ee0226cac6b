#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/half.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

constexpr bool is_page_type(DType dtype) { return is_float_storage(dtype) || dtype == DType::kI8; }

// Writes `size` floats as int8, `step` apart, and returns the factor that turns them back. What is not finite makes the
// factor so, and everything read with it.
inline float store_as_i8(const float* values, std::size_t size, std::int8_t* to, std::size_t step) {
  float largest = 0;
  bool is_finite = true;
  for (std::size_t i = 0; i < size; ++i) {
    is_finite = is_finite && std::isfinite(values[i]);
    largest = std::max(largest, std::abs(values[i]));
  }
  const bool is_usable = is_finite && largest > 0;
  const float inverse = is_usable ? 127 / largest : 0;
  for (std::size_t i = 0; i < size; ++i) {
    // Clamped because 127 / largest overflows for the smallest numbers.
    const float scaled = is_usable ? std::clamp(values[i] * inverse, -127.0f, 127.0f) : 0;
    to[i * step] = static_cast<std::int8_t>(scaled + (scaled < 0 ? -0.5f : 0.5f));
  }
  return is_finite ? largest / 127 : NAN;
}

// One token's key and value of one head, (head_dim) each.
inline void store_key(const float* key, const PagedKv& kv, std::size_t slot, std::size_t kv_head) {
  const std::size_t first = kv.key_index(slot, kv_head);
  if (kv.dtype == DType::kI8) {
    kv.key_scales[kv.scale_index(slot, kv_head)] =
        store_as_i8(key, kv.head_dim, static_cast<std::int8_t*>(kv.keys) + first, kv.block_size);
    return;
  }
  for (std::size_t i = 0; i < kv.head_dim; ++i) store_from_f32(key[i], kv.keys, kv.dtype, first + i * kv.block_size);
}

inline void store_value(const float* value, const PagedKv& kv, std::size_t slot, std::size_t kv_head) {
  const std::size_t first = kv.value_index(slot, kv_head);
  if (kv.dtype == DType::kI8) {
    kv.value_scales[kv.scale_index(slot, kv_head)] =
        store_as_i8(value, kv.head_dim, static_cast<std::int8_t*>(kv.values) + first, 1);
    return;
  }
  for (std::size_t i = 0; i < kv.head_dim; ++i) store_from_f32(value[i], kv.values, kv.dtype, first + i);
}

// One element of a token's key or value.
inline float load_key(const PagedKv& kv, std::size_t slot, std::size_t kv_head, std::size_t i) {
  const std::size_t index = kv.key_index(slot, kv_head) + i * kv.block_size;
  if (kv.dtype != DType::kI8) return load_as_f32(kv.keys, kv.dtype, index);
  return kv.key_scales[kv.scale_index(slot, kv_head)] * float(static_cast<const std::int8_t*>(kv.keys)[index]);
}

inline float load_value(const PagedKv& kv, std::size_t slot, std::size_t kv_head, std::size_t i) {
  const std::size_t index = kv.value_index(slot, kv_head) + i;
  if (kv.dtype != DType::kI8) return load_as_f32(kv.values, kv.dtype, index);
  return kv.value_scales[kv.scale_index(slot, kv_head)] * float(static_cast<const std::int8_t*>(kv.values)[index]);
}

}  // namespace troupe::kernels
