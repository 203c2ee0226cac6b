#pragma once

#include "kernels/cuda/simt.h"

// How inputs of products become numbers of fewer bits, whatever kernel does it.

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

// Four inputs of a row, zeros where it ends.
__device__ __forceinline__ void load_four(const float* in, unsigned first, unsigned cols, float (&values)[4]) {
#pragma unroll
  for (unsigned i = 0; i < 4; ++i) values[i] = first + i < cols ? __ldg(in + first + i) : 0.0f;
}

__device__ __forceinline__ float largest_of(const float (&values)[4]) {
  float largest = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float magnitude = fabsf(values[i]);
    largest = magnitude > largest ? magnitude : largest;  // passes a NaN over
  }
  return largest;
}

// `limit` steps to the largest |x|; nothing where a float32 cannot express that (kernels/cpu/quantised_loops.h).
__device__ __forceinline__ float steps_a_unit(float largest, float limit = 127.0f) {
  return largest > 1e-35f && largest < 1e38f ? limit / largest : 0.0f;
}

// Four quants as a word, and their sum.
__device__ __forceinline__ std::uint32_t quantise(const float (&values)[4], float steps, int& sum) {
  std::uint32_t word = 0;
  sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float step = values[i] * steps;
    const int quant = step == step ? static_cast<int>(rintf(step)) : 0;
    word |= static_cast<std::uint32_t>(quant & 255) << (8 * i);
    sum += quant;
  }
  return word;
}

// The bits of a number rounded to bf16 (nearest, ties to even), a NaN staying one.
__device__ __forceinline__ std::uint32_t rounded_bf16(float value) {
  const std::uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return bits >> 16 | 0x40;
  return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
