#pragma once

// What the threads of a block find out together. Always in the same order of sums.

#include "kernels/cuda/warp.cuh"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

// combine() over the values of all threads, the same for each of them. combine must not care for the order of its
// operands. T: trivially copyable, at most 8 bytes.
template <unsigned kThreads, class T, class Combine>
__device__ __forceinline__ T combine_block(T value, const Combine& combine) {
  constexpr unsigned kWarps = kThreads / 32;
  __shared__ T of_warp[kWarps];
#pragma unroll
  for (int step = 1; step < 32; step *= 2) value = combine(value, __shfl_xor_sync(kAllLanes, value, step));
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  value = of_warp[0];
#pragma unroll
  for (unsigned warp = 1; warp < kWarps; ++warp) value = combine(value, of_warp[warp]);
  __syncthreads();
  return value;
}

template <unsigned kThreads, class T>
__device__ __forceinline__ T sum_block(T value) {
  return combine_block<kThreads>(value, [](T a, T b) { return a + b; });
}

template <unsigned kThreads, class T>
__device__ __forceinline__ T max_block(T value) {
  return combine_block<kThreads>(value, [](T a, T b) { return a > b ? a : b; });
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
