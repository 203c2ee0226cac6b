#include "runtime/model/expert_dispatch.h"

#include <limits>

namespace troupe::model {

ExpertDispatch::ExpertDispatch(const ModelConfig& config, const Slice& slice)
    : slice_(slice), num_experts_(config.num_experts), shape_{config.num_experts_per_token, config.normalise_experts} {}

std::span<const DispatchedRows> ExpertDispatch::route(kernels::ConstMatrixF32 router_logits) {
  routing_.choose(router_logits, shape_);
  std::size_t used = 0;
  for (std::uint32_t shard = slice_.rank; shard < slice_.expert_shards; shard += slice_.world_size) {
    if (used == parts_.size()) parts_.emplace_back();
    collect(shard, router_logits.rows, parts_[used]);
    if (!parts_[used].rows.empty()) ++used;
  }
  return std::span(parts_).first(used);
}

void ExpertDispatch::collect(std::uint32_t expert_shard, std::size_t tokens, DispatchedRows& out) {
  constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();
  out.expert_shard = expert_shard;
  for (auto* list : {&out.rows, &out.pair_rows, &out.pair_experts}) list->clear();
  out.pair_weights.clear();
  const Range experts = even_part(num_experts_, expert_shard, slice_.expert_shards);
  index_of_row_.assign(tokens, kNone);
  for (std::uint64_t expert = experts.first; expert < experts.last; ++expert) {
    for (const std::uint32_t row : routing_.of(expert).rows) index_of_row_[row] = 0;
  }
  for (std::uint32_t row = 0; row < tokens; ++row) {
    if (index_of_row_[row] == kNone) continue;
    index_of_row_[row] = static_cast<std::uint32_t>(out.rows.size());
    out.rows.push_back(row);
  }
  for (std::uint64_t expert = experts.first; expert < experts.last; ++expert) {
    const kernels::Routing::Routed routed = routing_.of(expert);
    for (const std::uint32_t row : routed.rows) out.pair_rows.push_back(index_of_row_[row]);
    out.pair_experts.insert(out.pair_experts.end(), routed.rows.size(), static_cast<std::uint32_t>(expert));
    out.pair_weights.insert(out.pair_weights.end(), routed.weights.begin(), routed.weights.end());
  }
}

}  // namespace troupe::model
