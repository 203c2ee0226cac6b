#pragma once

#include "kernels/cuda/simt.h"

// Sums and maxima over a warp and over a block, always in the same order.

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

constexpr unsigned kAllLanes = 0xffffffff;
constexpr unsigned kWarpSize = 32;

// Every lane gets it.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int bits = 16; bits > 0; bits /= 2) value += __shfl_xor_sync(kAllLanes, value, bits);
  return value;
}

__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int bits = 16; bits > 0; bits /= 2) value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, bits));
  return value;
}

// Every thread gets it. partial: shared, one for each warp; free again after the next barrier.
__device__ __forceinline__ float block_sum(float value, float* partial) {
  const unsigned warps = blockDim.x / kWarpSize;
  value = warp_sum(value);
  if (warps == 1) return value;
  if (threadIdx.x % kWarpSize == 0) partial[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  return warp_sum(threadIdx.x % kWarpSize < warps ? partial[threadIdx.x % kWarpSize] : 0);
}

// The same of maxima.
__device__ __forceinline__ float block_max(float value, float* partial) {
  const unsigned warps = blockDim.x / kWarpSize;
  value = warp_max(value);
  if (warps == 1) return value;
  if (threadIdx.x % kWarpSize == 0) partial[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  return warp_max(partial[threadIdx.x % kWarpSize < warps ? threadIdx.x % kWarpSize : 0]);
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
