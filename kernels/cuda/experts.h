#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/gpu.h"

namespace troupe::kernels {

// A mixture of experts on the device: route(), experts_linear() (kernels/cuda/linear.h) with gate and up, again with
// down, combine(). The host reads nothing in between.

constexpr std::size_t kMostExpertsPerToken = 32;

// Which experts rows go to: those with the largest router logits, weighed by their softmax among the chosen or among
// all (Shazeer et al. 2017). The choice is that of Routing (kernels/cpu/routing.h), equal logits and such that are not
// numbers included; weights are computed in float64 and agree but for the last bits of exp. All pointers are of
// the device.
struct RouteCall {
  const float* router_logits = nullptr;  // (rows, num_experts)
  std::size_t rows = 0;
  std::size_t num_experts = 0;
  std::size_t row_stride = 0;  // elements
  std::size_t per_token = 0;   // at most kMostExpertsPerToken and num_experts
  bool normalise = false;      // weights of the chosen sum up to 1

  // How many of the rows choose, on the device; null: all do. What the others have is undefined, but for row_of.
  const std::uint32_t* live_rows = nullptr;

  std::uint32_t* experts = nullptr;  // (rows, per_token): ascending in each row
  float* weights = nullptr;          // (rows, per_token): theirs
  // The same by expert, then by row: expert e has places [starts[e], starts[e + 1]).
  std::uint32_t* starts = nullptr;  // (num_experts + 1)
  std::uint32_t* row_of = nullptr;  // (rows * per_token): the row of each place; 0 behind the last one
  std::uint32_t* places = nullptr;  // (rows, per_token): the place of each choice
};

// out(row, :) += weights(row, i) * in(places(row, i), :), for each i in turn.
struct CombineCall {
  const float* in = nullptr;  // (rows * per_token, cols): what the experts made of their rows
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t in_stride = 0;
  std::size_t per_token = 0;
  const std::uint32_t* live_rows = nullptr;  // as in RouteCall: the others are left as they are
  const float* weights = nullptr;            // as in RouteCall
  const std::uint32_t* places = nullptr;     // as in RouteCall
  float* out = nullptr;                      // (rows, cols)
  std::size_t out_stride = 0;
};

// Multiplies every row of `out` with the sigmoid of the row's dot product with `weight`: how much of the shared expert
// a token takes.
struct SigmoidCall {
  const float* in = nullptr;  // (rows, in_cols)
  std::size_t rows = 0;
  std::size_t in_cols = 0;
  std::size_t in_stride = 0;
  const float* weight = nullptr;  // (in_cols)
  float* out = nullptr;           // (rows, out_cols)
  std::size_t out_cols = 0;
  std::size_t out_stride = 0;
};

// Thread-safety: asynchronous on the stream.
TROUPE_GPU_FUNCTIONS(void route(Stream stream, const RouteCall& call);)
TROUPE_GPU_FUNCTIONS(void combine(Stream stream, const CombineCall& call);)
TROUPE_GPU_FUNCTIONS(void weigh_by_sigmoid(Stream stream, const SigmoidCall& call);)

}  // namespace troupe::kernels
