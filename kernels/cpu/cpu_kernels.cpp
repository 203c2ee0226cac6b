#include "kernels/cpu/cpu_kernels.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace troupe::kernels {

void CpuKernels::gather_rows(ConstMatrixF32 in, std::span<const std::uint32_t> rows, MatrixF32 out) {
  assert(out.rows == rows.size() && out.cols == in.cols);
  for (std::size_t i = 0; i < rows.size(); ++i) std::copy_n(in.row(rows[i]), out.cols, out.row(i));
}

void CpuKernels::add_weighted_rows(ConstMatrixF32 in, std::span<const std::uint32_t> rows,
                                   std::span<const float> weights, MatrixF32 sum) {
  assert(in.rows == rows.size() && weights.size() == rows.size() && in.cols == sum.cols);
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const float* from = in.row(i);
    float* to = sum.row(rows[i]);
    for (std::size_t col = 0; col < in.cols; ++col) to[col] += weights[i] * from[col];
  }
}

void CpuKernels::scale_by_sigmoid(ConstMatrixF32 in, std::span<const float> weight, MatrixF32 out) {
  assert(in.rows == out.rows && in.cols == weight.size());
  for (std::size_t row = 0; row < in.rows; ++row) {
    double dot = 0;
    for (std::size_t col = 0; col < in.cols; ++col) dot += double{in.row(row)[col]} * weight[col];
    const float share = static_cast<float>(1 / (1 + std::exp(-dot)));
    for (std::size_t col = 0; col < out.cols; ++col) out.row(row)[col] *= share;
  }
}

}  // namespace troupe::kernels
