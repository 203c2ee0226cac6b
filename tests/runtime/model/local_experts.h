#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "kernels/kernels.h"
#include "runtime/model/expert_shard.h"
#include "runtime/model/remote_experts.h"

namespace troupe::model::testing {

// The expert shards that one rank asks, computed in its thread when it waits for them.
class LocalExperts final : public RemoteExperts {
 public:
  // slice: of the rank. Fails the test when they do not load.
  LocalExperts(const std::filesystem::path& model, const ModelConfig& config, const Slice& slice,
               const std::function<std::unique_ptr<kernels::Kernels>()>& make_kernels,
               const ExpertShardOptions& options);

  Result<void> dispatch(std::uint32_t layer, kernels::ConstMatrixF32 normed,
                        std::span<const DispatchedRows> parts) override;
  Result<kernels::ConstMatrixF32> combine(std::size_t part) override;

  std::size_t dispatches = 0;  // so far
  // Of the next dispatch, if any.
  std::optional<Error> fails_with;

 private:
  struct Shard {
    std::unique_ptr<kernels::Kernels> kernels;
    std::unique_ptr<ExpertShard> experts;
  };
  struct Part {
    DispatchedRows rows;
    std::vector<float> in;   // (rows, hidden_size)
    std::vector<float> sum;  // (rows, hidden_size)
  };

  const std::size_t hidden_size_;
  std::map<std::uint32_t, Shard> shards_;  // by their number
  std::uint32_t layer_ = 0;
  std::vector<Part> parts_;
};

}  // namespace troupe::model::testing
