#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/packed_weight.h"

namespace troupe::kernels {

// Matrices of bf16 by rows, as libraries multiply them. All pointers are of the device.

// out(row, col) = what the weight stands for, rounded.
struct UnpackCall {
  GpuWeight weight;
  std::uint16_t* out = nullptr;  // (weight.rows, weight.cols)
  std::size_t out_stride = 0;    // elements
};

// out = in, rounded.
struct RoundCall {
  const float* in = nullptr;  // (rows, cols)
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t in_stride = 0;
  std::uint16_t* out = nullptr;  // (rows, cols)
  std::size_t out_stride = 0;
};

// What an epilogue other than kStore makes of a product that is complete, its bias included.
struct EpilogueCall {
  const float* product = nullptr;  // (rows, cols), without gaps
  std::size_t rows = 0;
  std::size_t cols = 0;
  Epilogue epilogue = Epilogue::kSilu;
  float* out = nullptr;  // (rows, cols)
  std::size_t out_stride = 0;
};

// Thread-safety: asynchronous on the stream.
TROUPE_GPU_FUNCTIONS(void unpack_weight(Stream stream, const UnpackCall& call);
                     void round_rows(Stream stream, const RoundCall& call);
                     void finish_product(Stream stream, const EpilogueCall& call);)

}  // namespace troupe::kernels
