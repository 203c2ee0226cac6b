#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/model/arenas.h"
#include "runtime/model/config.h"
#include "runtime/model/scratch.h"
#include "runtime/model/slice.h"
#include "runtime/model/weights.h"

namespace troupe::model {

// Which rows go to which experts: one entry a pair, ascending by expert, then by row, each pair once.
struct ExpertPairs {
  std::span<const std::uint32_t> rows;
  std::span<const std::uint32_t> experts;  // of the layer
  std::span<const float> weights;          // by the router

  std::size_t size() const { return rows.size(); }
};

struct ExpertShardOptions {
  std::uint32_t max_batch_tokens = 512;  // rows of one compute()
  std::filesystem::path packed_cache;    // as of TransformerOptions
};

// Bytes of scratch of an expert shard. Needs no file: for the planner. REQUIRES: check_slice(config, slice).ok()
ScratchBytes expert_scratch_bytes(const ModelConfig& config, const Slice& slice, std::uint32_t max_batch_tokens,
                                  bool on_host);

// Some of the routed experts of the layers [first, last), whole ones, and what they make of rows: the half of a layer
// of Transformer that may live elsewhere.
//
// Where: weights and scratch lie in the memory of the kernels' device; rows and sums in the host's. Thread-safety: one
// thread. Memory: all is taken by load(). Numbers: a row's sum does not depend on the other rows; experts are added in
// their order.
class ExpertShard {
 public:
  // `kernels` outlive the shard. Errors: of check_slice, of the checkpoint, kResourceExhausted for memory.
  // REQUIRES: slice.expert_shard
  static Result<std::unique_ptr<ExpertShard>> load(const std::filesystem::path& model, const ModelConfig& config,
                                                   const Slice& slice, kernels::Kernels& kernels,
                                                   const ExpertShardOptions& options,
                                                   const ProgressCallback& progress = {}, const Limits& limits = {});

  // sum(row, :) = for each pair of that row, its weight * what its expert makes of rows(row, :). rows and sum:
  // (at most max_batch_tokens, hidden_size). Everything that comes from another process is checked.
  // Errors: kInvalidArgument, which names what does not fit; what became of the device.
  Result<void> compute(std::uint32_t layer, kernels::ConstMatrixF32 rows, const ExpertPairs& pairs,
                       kernels::MatrixF32 sum);

  const Slice& slice() const { return slice_; }
  const ModelConfig& config() const { return config_; }
  const ShardWeights& weights() const { return weights_; }
  const ExpertShardOptions& options() const { return options_; }

  // As of Transformer.
  Result<std::vector<ArenaLevel>> memory_levels() const;

 private:
  // Matrices for so many pairs at a time: of one expert on the host, else of all.
  struct Room {
    kernels::MatrixF32 in;     // (pairs, hidden_size)
    kernels::MatrixF32 gated;  // (pairs, intermediate)
    kernels::MatrixF32 out;    // (pairs, hidden_size)
    // In the host's memory, where the device is not the host:
    kernels::MatrixF32 outgoing;  // (pairs, hidden_size): what becomes `in`
    kernels::MatrixF32 incoming;  // (pairs, hidden_size): a copy of `out`
  };

  ExpertShard(const ModelConfig& config, const Slice& slice, kernels::Kernels& kernels,
              const ExpertShardOptions& options, ShardWeights weights, Arena arena, Arena host_arena);

  Result<void> check(std::uint32_t layer, kernels::ConstMatrixF32 rows, const ExpertPairs& pairs) const;

  const ModelConfig config_;
  const Slice slice_;
  const Range held_;  // experts of a layer
  kernels::Kernels* const kernels_;
  const ExpertShardOptions options_;
  ShardWeights weights_;
  Arena arena_;
  Arena host_arena_;
  Room room_;
};

}  // namespace troupe::model
