#pragma once

#include "kernels/cuda/linear.h"
#include "kernels/cuda/simt.h"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

__device__ __forceinline__ float silu(float x) { return x / (1.0f + expf(-x)); }

// value: a product and its bias.
__device__ __forceinline__ void finish_value(Epilogue epilogue, float value, float* out) {
  if (epilogue == Epilogue::kSilu) value = silu(value);
  if (epilogue == Epilogue::kMultiply) value = *out * value;
  *out = value;
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
