// Vectors of a type V (see vector_loops.h) from memory of any storage type and back, and what several loops compute.

#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/vector_ops.h"

namespace troupe::kernels {
namespace {

// `count` elements of a storage type, at `index`, as floats; zeros beyond. count: 1 to width.
template <class V, DType D>
typename V::Reg load_some(const void* data, std::size_t index, std::size_t count) {
  if constexpr (D == DType::kI8) {
    return V::load_some_bytes(static_cast<const std::int8_t*>(data) + index, count);
  } else if constexpr (D == DType::kE4M3) {
    return V::load_some_e4m3(static_cast<const std::uint8_t*>(data) + index, count);
  } else if constexpr (D == DType::kF32) {
    return V::load_some(static_cast<const float*>(data) + index, count);
  } else {
    return V::template widen<D>(V::load_some_halves(static_cast<const std::uint16_t*>(data) + index, count));
  }
}

template <class V, DType D>
typename V::Reg load(const void* data, std::size_t index) {
  if constexpr (D == DType::kI8) {
    return V::load_bytes(static_cast<const std::int8_t*>(data) + index);
  } else if constexpr (D == DType::kE4M3) {
    return V::load_e4m3(static_cast<const std::uint8_t*>(data) + index);
  } else if constexpr (D == DType::kF32) {
    return V::load(static_cast<const float*>(data) + index);
  } else {
    return V::template widen<D>(V::load_halves(static_cast<const std::uint16_t*>(data) + index));
  }
}

// Calls loop(index, count) for each vector of `size` elements, count being V::width for all but the last, and a
// constant to the optimiser there.
template <class V, class Loop>
void for_each_vector(std::size_t size, const Loop& loop) {
  std::size_t i = 0;
  for (; i + V::kWidth <= size; i += V::kWidth) loop(i, V::kWidth);
  if (i < size) loop(i, size - i);
}

template <class V>
typename V::Reg load_f32(const float* data, std::size_t count) {
  return count == V::kWidth ? V::load(data) : V::load_some(data, count);
}

template <class V>
void store_f32(float* data, typename V::Reg value, std::size_t count) {
  if (count == V::kWidth) {
    V::store(data, value);
  } else {
    V::store_some(data, value, count);
  }
}

// e^x within 2 ulp for x in [-87, 88], clamped there; a NaN stays one. x = n ln 2 + r, and the Taylor series of e^r
// to the 7th power, whose remainder at |r| <= ln(2) / 2 is below 6e-9.
template <class V>
typename V::Reg exp(typename V::Reg x) {
  x = V::max(V::set(-87.0f), V::min(V::set(88.0f), x));
  const auto n = V::round(V::mul(x, V::set(1.44269504f)));
  // ln 2 in two parts, the first with few enough bits for n times it to be exact.
  auto r = V::fma(n, V::set(-0.693359375f), x);
  r = V::fma(n, V::set(2.12194440e-4f), r);
  auto series = V::set(1.0f / 5040);
  series = V::fma(series, r, V::set(1.0f / 720));
  series = V::fma(series, r, V::set(1.0f / 120));
  series = V::fma(series, r, V::set(1.0f / 24));
  series = V::fma(series, r, V::set(1.0f / 6));
  series = V::fma(series, r, V::set(0.5f));
  series = V::fma(series, r, V::set(1.0f));
  series = V::fma(series, r, V::set(1.0f));
  return V::scale_by_power_of_2(series, n);
}

}  // namespace
}  // namespace troupe::kernels
