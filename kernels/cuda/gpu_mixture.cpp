#include "kernels/cuda/gpu_mixture.h"

#include <algorithm>
#include <cassert>
#include <string>
#include <vector>

#include "kernels/cuda/bf16_rows.h"
#include "kernels/cuda/experts.h"
#include "kernels/cuda/linear.h"

namespace troupe::kernels {
namespace {

constexpr std::size_t kMostGridRows = 65535;

bool same_layout(const GpuWeight& a, const GpuWeight& b) {
  return a.dtype == b.dtype && a.rows == b.rows && a.cols == b.cols;
}

}  // namespace

Result<std::unique_ptr<GpuMixture>> GpuMixture::make(GpuMemory& memory, std::span<const Expert> experts,
                                                     const MixtureShape& shape) {
  assert(!experts.empty() && shape.experts_per_token >= 1 && shape.experts_per_token <= experts.size());
  if (shape.experts_per_token > kMostExpertsPerToken) {
    return unsupported("a token takes " + std::to_string(shape.experts_per_token) +
                           " experts of each layer; on GPUs, " + std::to_string(kMostExpertsPerToken) +
                           " are the most: use cpu devices",
                       "num_experts_per_tok");
  }
  std::vector<const std::byte*> images;
  for (const auto weight : {&Expert::gate, &Expert::up, &Expert::down}) {
    for (const Expert& expert : experts) {
      if (!same_layout(expert.*weight, experts.front().*weight)) {
        return unsupported("the experts of a layer are stored as different types; on GPUs they are of one type: " +
                           std::string("convert the model, or use cpu devices"));
      }
      images.push_back((expert.*weight).image);
    }
  }
  const std::size_t bytes = images.size() * sizeof(images[0]);
  TROUPE_ASSIGN_OR_RETURN(void* const there, memory.allocate(bytes, "a layer's experts"));
  memory.upload(there, images.data(), bytes);
  return std::unique_ptr<GpuMixture>(new GpuMixture(memory, experts, shape, static_cast<const std::byte**>(there)));
}

GpuMixture::~GpuMixture() { memory_.release(images_, 3 * num_experts_ * sizeof(images_[0])); }

void GpuMixture::mix(ConstMatrixF32 in, ConstMatrixF32 router_logits, const MixtureScratch& scratch,
                     const std::uint32_t* live_rows, Workspace& inputs, Workspace& choices, MatrixF32 sum) const {
  assert(router_logits.rows == in.rows && router_logits.cols == num_experts_);
  assert(sum.rows == in.rows && sum.cols == in.cols && first_.gate.cols == in.cols);
  assert(live_rows == nullptr || in.rows <= kMostGridRows / shape_.experts_per_token);
  // A grid has a row for each choice.
  const std::size_t most_rows = kMostGridRows / shape_.experts_per_token;
  for (std::size_t first = 0; first < in.rows; first += most_rows) {
    const std::size_t rows = std::min(most_rows, in.rows - first);
    mix_rows(in.rows_from(first, rows), router_logits.rows_from(first, rows), scratch, live_rows, inputs, choices,
             sum.rows_from(first, rows));
  }
}

void GpuMixture::mix_rows(ConstMatrixF32 in, ConstMatrixF32 router_logits, const MixtureScratch& scratch,
                          const std::uint32_t* live_rows, Workspace& inputs, Workspace& choices, MatrixF32 sum) const {
  const std::size_t chosen = in.rows * shape_.experts_per_token, width = first_.gate.rows;
  assert(scratch.gated.rows >= chosen && scratch.out.rows >= chosen);
  const Stream stream = memory_.gpu().stream();
  const bool fuses = first_.gate.dtype == first_.up.dtype;
  // Four lists of all choices, the starts, and what one weight yields where gates and ups cannot be fused.
  auto* const lists = reinterpret_cast<std::uint32_t*>(
      choices.of((4 * chosen + num_experts_ + 1 + (fuses ? 0 : chosen * width)) * sizeof(std::uint32_t)));
  std::byte* const prepared = inputs.of(linear_workspace_bytes(chosen, std::max(in.cols, width)));
  if (memory_.failed()) return;

  const RouteCall routing = {.router_logits = router_logits.data,
                             .rows = in.rows,
                             .num_experts = num_experts_,
                             .row_stride = router_logits.row_stride,
                             .per_token = shape_.experts_per_token,
                             .normalise = shape_.normalise,
                             .live_rows = live_rows,
                             .experts = lists,
                             .weights = reinterpret_cast<float*>(lists + chosen),
                             .starts = lists + 4 * chosen,
                             .row_of = lists + 2 * chosen,
                             .places = lists + 3 * chosen};
  TROUPE_GPU_CALL(route, stream, routing);

  const std::byte* const* const images = images_;
  ExpertsCall call = {.in = in.data,
                      .row_of = routing.row_of,
                      .rows = chosen,
                      .cols = in.cols,
                      .in_stride = in.row_stride,
                      .starts = routing.starts,
                      .num_experts = num_experts_,
                      .gate = images,
                      .up = images + num_experts_,
                      .dtype = first_.gate.dtype,
                      .outs = width,
                      .out = scratch.gated.data,
                      .out_stride = width,
                      .workspace = prepared};
  if (fuses) {
    TROUPE_GPU_CALL(experts_linear, stream, call);
  } else {
    auto* const product = reinterpret_cast<float*>(lists + 4 * chosen + num_experts_ + 1);
    call.up = nullptr;
    call.out = product;
    TROUPE_GPU_CALL(experts_linear, stream, call);
    TROUPE_GPU_CALL(finish_product, stream,
                    EpilogueCall{product, chosen, width, Epilogue::kSilu, scratch.gated.data, width});
    call.gate = images + num_experts_;
    call.dtype = first_.up.dtype;
    TROUPE_GPU_CALL(experts_linear, stream, call);
    TROUPE_GPU_CALL(finish_product, stream,
                    EpilogueCall{product, chosen, width, Epilogue::kMultiply, scratch.gated.data, width});
  }

  TROUPE_GPU_CALL(experts_linear, stream,
                  ExpertsCall{.in = scratch.gated.data,
                              .rows = chosen,
                              .cols = width,
                              .in_stride = width,
                              .starts = routing.starts,
                              .num_experts = num_experts_,
                              .gate = images + 2 * num_experts_,
                              .dtype = first_.down.dtype,
                              .outs = first_.down.rows,
                              .out = scratch.out.data,
                              .out_stride = scratch.out.row_stride,
                              .workspace = prepared});
  TROUPE_GPU_CALL(combine, stream,
                  CombineCall{.in = scratch.out.data,
                              .rows = in.rows,
                              .cols = sum.cols,
                              .in_stride = scratch.out.row_stride,
                              .per_token = shape_.experts_per_token,
                              .weights = routing.weights,
                              .places = routing.places,
                              .out = sum.data,
                              .out_stride = sum.row_stride});
}

}  // namespace troupe::kernels
