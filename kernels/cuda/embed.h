#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/gpu.h"
#include "kernels/tensor.h"

namespace troupe::kernels {

// out(i, :) = table(tokens[i] - first_row, :) where the table holds that row, else zeros. All pointers are of the
// device.
struct EmbedArgs {
  const std::uint32_t* tokens = nullptr;  // (out.rows)
  WeightView table;                       // kF32, kF16 or kBF16
  std::uint32_t first_row = 0;
  MatrixF32 out;  // (rows, table.cols)
};

// Asynchronous on the stream.
TROUPE_GPU_FUNCTIONS(void embed(Stream stream, const EmbedArgs& args);)

}  // namespace troupe::kernels
