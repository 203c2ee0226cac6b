#include "kernels/cpu/cpu_kernels.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

namespace troupe::kernels {
namespace {

struct CpuMixture final : Mixture {
  std::vector<ExpertWeights> experts;
  MixtureShape shape;
};

// out(i, :) = in(rows[i], :).
void gather_rows(ConstMatrixF32 in, std::span<const std::uint32_t> rows, MatrixF32 out) {
  assert(out.rows == rows.size() && out.cols == in.cols);
  for (std::size_t i = 0; i < rows.size(); ++i) std::copy_n(in.row(rows[i]), out.cols, out.row(i));
}

// sum(rows[i], :) += weights[i] * in(i, :).
void add_weighted_rows(ConstMatrixF32 in, const Routing::Routed& routed, MatrixF32 sum) {
  assert(in.rows == routed.rows.size() && in.cols == sum.cols);
  for (std::size_t i = 0; i < routed.rows.size(); ++i) {
    const float* from = in.row(i);
    float* to = sum.row(routed.rows[i]);
    for (std::size_t col = 0; col < in.cols; ++col) to[col] += routed.weights[i] * from[col];
  }
}

}  // namespace

Result<std::unique_ptr<Mixture>> CpuKernels::make_mixture(std::span<const ExpertWeights> experts,
                                                          const MixtureShape& shape) {
  auto mixture = std::make_unique<CpuMixture>();
  mixture->experts.assign(experts.begin(), experts.end());
  mixture->shape = shape;
  return std::unique_ptr<Mixture>(std::move(mixture));
}

StepRows CpuKernels::begin_step(const StepLists& lists) {
  step_ = lists;
  return {lists.positions.size(), lists.logits_rows.size()};
}

void CpuKernels::gather_logits_rows(ConstMatrixF32 in, std::size_t first, MatrixF32 out) {
  gather_rows(in, step_.logits_rows.subspan(first, out.rows), out);
}

void CpuKernels::mix(ConstMatrixF32 in, ConstMatrixF32 router_logits, const Mixture& mixture,
                     const MixtureScratch& scratch, MatrixF32 sum) {
  assert(dynamic_cast<const CpuMixture*>(&mixture) != nullptr);
  const auto& [experts, shape] = static_cast<const CpuMixture&>(mixture);
  assert(router_logits.cols == experts.size() && router_logits.rows == in.rows && sum.rows == in.rows);
  routing_.choose(router_logits, shape);
  for (std::size_t index = 0; index < experts.size(); ++index) {
    const Routing::Routed routed = routing_.of(index);
    if (routed.rows.empty()) continue;
    const MatrixF32 rows = scratch.routed.rows_from(0, routed.rows.size());
    const MatrixF32 gated = scratch.gated.rows_from(0, routed.rows.size());
    const MatrixF32 out = scratch.out.rows_from(0, routed.rows.size());
    const ExpertWeights& expert = experts[index];
    gather_rows(in, routed.rows, rows);
    swiglu(rows, {expert.gate}, {expert.up}, gated);
    linear(gated, {expert.down}, out);
    add_weighted_rows(out, routed, sum);
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
