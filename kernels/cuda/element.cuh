#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/simt.h"
#include "kernels/tensor.h"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

// One element of a type that numbers are stored as; kI8 without its scale.
__device__ inline float load_element(const void* data, DType dtype, std::size_t index) {
  switch (dtype) {
    case DType::kF32: return static_cast<const float*>(data)[index];
    case DType::kF16: return __half2float(static_cast<const __half*>(data)[index]);
    case DType::kBF16: return __bfloat162float(static_cast<const __nv_bfloat16*>(data)[index]);
    default: return static_cast<float>(static_cast<const std::int8_t*>(data)[index]);
  }
}

__device__ inline void store_element(float value, void* data, DType dtype, std::size_t index) {
  switch (dtype) {
    case DType::kF32: static_cast<float*>(data)[index] = value; break;
    case DType::kF16: static_cast<__half*>(data)[index] = __float2half_rn(value); break;
    default: static_cast<__nv_bfloat16*>(data)[index] = __float2bfloat16_rn(value); break;
  }
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
