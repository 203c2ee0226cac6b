#pragma once

#include <cstddef>

#include "kernels/cuda/gpu.h"
#include "kernels/tensor.h"

namespace troupe::kernels {

// All pointers are of the device.

struct RmsNormArgs {
  ConstMatrixF32 in;              // (rows, cols)
  const float* weight = nullptr;  // (cols)
  float eps = 0;
  MatrixF32 out;  // (rows, cols); may be in
};

struct AddRmsNormArgs {
  ConstMatrixF32 addend;          // (rows, cols)
  MatrixF32 sum;                  // (rows, cols)
  const float* weight = nullptr;  // (cols)
  float eps = 0;
  MatrixF32 out;  // (rows, cols)
};

struct AddArgs {
  ConstMatrixF32 addend;  // (rows, cols)
  MatrixF32 sum;          // (rows, cols)
};

// Kernels' operations of these names (kernels/kernels.h). A row is one block's, whose threads add up its squares in an
// order that depends on cols alone: the row has the same bits in any batch and at any address. Each element is read
// once.
TROUPE_GPU_FUNCTIONS(void rms_norm(Stream stream, const RmsNormArgs& args);
                     void add_rms_norm(Stream stream, const AddRmsNormArgs& args);
                     void add(Stream stream, const AddArgs& args);)

}  // namespace troupe::kernels
