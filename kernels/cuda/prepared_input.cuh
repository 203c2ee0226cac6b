#pragma once

#include "kernels/cuda/prepared_input.h"
#include "kernels/cuda/simt.h"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

// Rows of inputs, on the device.
struct InputRows {
  const float* in;              // (.., cols)
  std::size_t stride;           // elements
  const std::uint32_t* row_of;  // row i is in(row_of[i], :), or in(i, :) where this is null
  unsigned cols;

  __device__ const float* row(unsigned index) const {
    return in + (row_of != nullptr ? row_of[index] : index) * stride;
  }
};

// Turns to.rows rows into a form.
void prepare_input(Stream stream, InputForm form, const InputRows& rows, const PreparedInput& to);

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
