#pragma once

#include "kernels/cuda/prepared_input.h"
#include "kernels/cuda/simt.h"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

// Turns rows of inputs, (to.rows, cols), into a form.
void prepare_input(Stream stream, InputForm form, const float* in, std::size_t in_stride, std::size_t cols,
                   const PreparedInput& to);

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
