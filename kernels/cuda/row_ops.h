#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/gpu.h"

namespace troupe::kernels {

// All pointers are of the device; strides are in elements.

// out(i, :) = in(indices[i], :). indices: (rows), or null: each row in its place.
struct GatherRowsArgs {
  const float* in = nullptr;  // (.., cols)
  std::size_t in_stride = 0;
  const std::uint32_t* indices = nullptr;
  float* out = nullptr;  // (rows, cols)
  std::size_t out_stride = 0;
  std::size_t rows = 0;
  std::size_t cols = 0;
};

// tokens[i] = drawn[sources[i]], unless that is kTokenIsKnown. One that is no row, or nothing was drawn for, leaves
// token 0.
struct TakeTokensArgs {
  const std::uint32_t* sources = nullptr;  // (rows)
  const std::uint32_t* drawn = nullptr;    // (drawn_rows); kNoToken where nothing could be drawn
  std::uint32_t drawn_rows = 0;
  std::uint32_t* tokens = nullptr;  // (rows)
  std::size_t rows = 0;
};

// out(i) = ((in(0, i) + in(1, i)) + in(2, i)) + ...: the sum of a group of ranks, in their order.
struct SumRowsArgs {
  const float* in = nullptr;  // (rows, cols), contiguous; rows > 0
  std::size_t rows = 0;
  std::size_t cols = 0;
  float* out = nullptr;  // (cols); overlaps nothing
};

// Asynchronous on the stream. Sizes that do not match are bugs.
TROUPE_GPU_FUNCTIONS(void gather_rows(Stream stream, const GatherRowsArgs& args);
                     void take_tokens(Stream stream, const TakeTokensArgs& args);
                     void sum_rows(Stream stream, const SumRowsArgs& args);)

}  // namespace troupe::kernels
