#pragma once

#include "kernels/cuda/simt.h"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

constexpr unsigned kWarpLanes = 32;

// The sum of every thread's value, in one order, to every thread. shared: (threads / 32); the block meets before and
// after, so that calls may follow each other. REQUIRES: whole warps
__device__ inline float block_sum(float value, float* shared) {
  for (unsigned offset = kWarpLanes / 2; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, static_cast<int>(offset));
  }
  __syncthreads();
  if (threadIdx.x % kWarpLanes == 0) shared[threadIdx.x / kWarpLanes] = value;
  __syncthreads();
  float sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / kWarpLanes; ++warp) sum += shared[warp];
  return sum;
}

// The same of the largest value.
__device__ inline float block_max(float value, float* shared) {
  for (unsigned offset = kWarpLanes / 2; offset > 0; offset /= 2) {
    value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, static_cast<int>(offset)));
  }
  __syncthreads();
  if (threadIdx.x % kWarpLanes == 0) shared[threadIdx.x / kWarpLanes] = value;
  __syncthreads();
  float largest = shared[0];
  for (unsigned warp = 1; warp < blockDim.x / kWarpLanes; ++warp) largest = fmaxf(largest, shared[warp]);
  return largest;
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
