#pragma once

#include <cstddef>

#include "kernels/cuda/gpu.h"

namespace troupe::kernels {

// sum += addend where there is one; then out = sum / sqrt(mean(sum^2) + eps) * weight where there is an out, by row. All
// pointers are of the device, strides in elements. A row's numbers depend on cols alone.
struct RowNormArgs {
  const float* addend = nullptr;  // (rows, cols) or null
  std::size_t addend_stride = 0;
  float* sum = nullptr;  // (rows, cols); only read without an addend
  std::size_t sum_stride = 0;
  const float* weight = nullptr;  // (cols)
  float eps = 0;
  float* out = nullptr;  // (rows, cols) or null; may be sum
  std::size_t out_stride = 0;
  std::size_t rows = 0;
  std::size_t cols = 0;
};

// Asynchronous on the stream.
TROUPE_GPU_FUNCTIONS(void row_norm(Stream stream, const RowNormArgs& args);)

}  // namespace troupe::kernels
