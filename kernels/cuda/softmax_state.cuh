#pragma once

#include "kernels/cuda/simt.h"

// The running softmax of a line: the largest score so far (base 2 logarithms), and sums of powers relative to it
// (Milakov & Gimelshein 2018). Every kernel that puts states together does it with these functions, and so to the same
// bits.

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

constexpr unsigned kMinusInfinityBits = 0xff800000;

__device__ __forceinline__ float minus_infinity() { return __uint_as_float(kMinusInfinityBits); }

// What scores are taken relative to: the largest, or 0 where none was seen yet.
__device__ __forceinline__ float reference_score(float highest) { return highest == minus_infinity() ? 0.0f : highest; }

// How two states are weighted when they become one.
struct StateWeights {
  float highest;
  float first, second;
};

__device__ __forceinline__ StateWeights weigh_states(float first_highest, float second_highest) {
  const float highest = fmaxf(first_highest, second_highest);
  const float reference = reference_score(highest);
  return {highest, exp2f(first_highest - reference), exp2f(second_highest - reference)};
}

__device__ __forceinline__ float add_states(const StateWeights& weights, float first, float second) {
  return __fmaf_rn(first, weights.first, __fmul_rn(second, weights.second));
}

__device__ __forceinline__ float finished(float values, float sum) { return __fmul_rn(values, __fdiv_rn(1.0f, sum)); }

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
