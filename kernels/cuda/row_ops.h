#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/gpu.h"

namespace troupe::kernels {

// All pointers are of the device; strides are in elements.

// out(i, :) = in(indices[i], :). indices: (rows)
struct GatherRowsArgs {
  const float* in = nullptr;  // (.., cols)
  std::size_t in_stride = 0;
  const std::uint32_t* indices = nullptr;
  float* out = nullptr;  // (rows, cols)
  std::size_t out_stride = 0;
  std::size_t rows = 0;
  std::size_t cols = 0;
};

// sum(indices[i], :) += weights[i] * in(i, :). indices, weights: (rows), no index twice
struct AddWeightedRowsArgs {
  const float* in = nullptr;  // (rows, cols)
  std::size_t in_stride = 0;
  const std::uint32_t* indices = nullptr;
  const float* weights = nullptr;
  float* sum = nullptr;  // (.., cols)
  std::size_t sum_stride = 0;
  std::size_t rows = 0;
  std::size_t cols = 0;
};

// Asynchronous on the stream. Sizes that do not match are bugs.
TROUPE_GPU_FUNCTIONS(void gather_rows(Stream stream, const GatherRowsArgs& args);
                     void add_weighted_rows(Stream stream, const AddWeightedRowsArgs& args);)

}  // namespace troupe::kernels
