#include "tests/runtime/model/local_experts.h"

#include <boost/test/unit_test.hpp>

#include "tests/runtime/model/tiny_model.h"

namespace troupe::model::testing {

LocalExperts::LocalExperts(const std::filesystem::path& model, const ModelConfig& config, const Slice& slice,
                           const std::function<std::unique_ptr<kernels::Kernels>()>& make_kernels,
                           const ExpertShardOptions& options)
    : hidden_size_(config.hidden_size) {
  for (std::uint32_t number = slice.rank; number < slice.expert_shards; number += slice.world_size) {
    Slice part = slice;
    part.rank = 0;
    part.world_size = 1;
    part.expert_shard = number;
    Shard& shard = shards_[number];
    shard.kernels = make_kernels();
    auto loaded = ExpertShard::load(model, config, part, *shard.kernels, options);
    BOOST_REQUIRE_MESSAGE(loaded.ok(), why(loaded));
    shard.experts = std::move(*loaded);
  }
}

Result<void> LocalExperts::dispatch(std::uint32_t layer, kernels::ConstMatrixF32 normed,
                                    std::span<const DispatchedRows> parts) {
  ++dispatches;
  if (fails_with) return *fails_with;
  layer_ = layer;
  parts_.clear();
  for (const DispatchedRows& part : parts) {
    Part& copy = parts_.emplace_back(Part{part, {}, std::vector<float>(part.rows.size() * hidden_size_)});
    for (const std::uint32_t row : part.rows) {
      copy.in.insert(copy.in.end(), normed.row(row), normed.row(row) + hidden_size_);
    }
  }
  return {};
}

Result<kernels::ConstMatrixF32> LocalExperts::combine(std::size_t part) {
  Part& asked = parts_.at(part);
  const std::size_t rows = asked.rows.rows.size();
  TROUPE_RETURN_IF_ERROR(shards_.at(asked.rows.expert_shard)
                             .experts->compute(layer_, {asked.in.data(), rows, hidden_size_}, asked.rows.pairs(),
                                               {asked.sum.data(), rows, hidden_size_}));
  return kernels::ConstMatrixF32(asked.sum.data(), rows, hidden_size_);
}

}  // namespace troupe::model::testing
