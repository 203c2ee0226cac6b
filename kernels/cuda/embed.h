#pragma once

#include <cstdint>

#include "kernels/cuda/gpu.h"
#include "kernels/tensor.h"

namespace troupe::kernels {

// All pointers are of the device.
struct EmbedArgs {
  const std::uint32_t* tokens = nullptr;  // (out.rows)
  WeightView table;                       // of any type, as it lies in its file; at a multiple of 4 bytes
  std::uint32_t first_row = 0;
  MatrixF32 out;  // (rows, table.cols)
};

// out(i, :) = table(tokens[i] - first_row, :) where the table holds that row, else zeros: the same numbers as the
// CPU's.
TROUPE_GPU_FUNCTIONS(void embed(Stream stream, const EmbedArgs& args);)

}  // namespace troupe::kernels
