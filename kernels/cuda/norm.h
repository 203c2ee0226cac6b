#pragma once

#include <cstddef>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/prepared_input.h"
#include "kernels/tensor.h"

namespace troupe::kernels {

// All pointers are of the device.

// What products will read of a norm's result, written by the norm as well, to the bits that they would make of it.
struct PreparedNorm {
  bool is_wanted = false;
  InputForm form = InputForm::kBf16;
  PreparedInput to;  // PreparedLayout(form, rows, cols)
};

struct RmsNormArgs {
  ConstMatrixF32 in;              // (rows, cols)
  const float* weight = nullptr;  // (cols)
  float eps = 0;
  MatrixF32 out;  // (rows, cols); may be in
  PreparedNorm prepared;
};

struct AddRmsNormArgs {
  ConstMatrixF32 addend;          // (rows, cols)
  MatrixF32 sum;                  // (rows, cols)
  const float* weight = nullptr;  // (cols)
  float eps = 0;
  MatrixF32 out;  // (rows, cols)
  PreparedNorm prepared;
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
