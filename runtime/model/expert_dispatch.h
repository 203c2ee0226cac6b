#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/cpu/routing.h"
#include "kernels/tensor.h"
#include "runtime/model/config.h"
#include "runtime/model/expert_shard.h"
#include "runtime/model/slice.h"

namespace troupe::model {

// What one expert shard is to compute of a layer.
struct DispatchedRows {
  std::uint32_t expert_shard = 0;
  std::vector<std::uint32_t> rows;  // of the batch, ascending

  // One entry a pair, ascending by expert, then by row.
  std::vector<std::uint32_t> pair_rows;     // index into `rows`
  std::vector<std::uint32_t> pair_experts;  // of the layer
  std::vector<float> pair_weights;

  ExpertPairs pairs() const { return {pair_rows, pair_experts, pair_weights}; }
};

// Decides which rows of a step go to which of the expert shards that one rank asks, by the layer's router logits
// (kernels/cpu/routing.h). Its memory grows to the largest step and is kept.
class ExpertDispatch {
 public:
  ExpertDispatch(const ModelConfig& config, const Slice& slice);

  // router_logits: (tokens, num_experts) in the host's memory. One entry for each expert shard that this rank asks and
  // any row goes to, in their order; valid until the next call.
  std::span<const DispatchedRows> route(kernels::ConstMatrixF32 router_logits);

 private:
  void collect(std::uint32_t expert_shard, std::size_t tokens, DispatchedRows& out);

  const Slice slice_;
  const std::uint32_t num_experts_;
  const kernels::MixtureShape shape_;
  kernels::Routing routing_;
  std::vector<DispatchedRows> parts_;        // (expert shards that this rank asks): the first of them are in use
  std::vector<std::uint32_t> index_of_row_;  // (tokens): of a row among those that go to an expert shard
};

}  // namespace troupe::model
