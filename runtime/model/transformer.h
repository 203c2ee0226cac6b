#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/collective/communicator.h"
#include "runtime/model/arenas.h"
#include "runtime/model/config.h"
#include "runtime/model/expert_dispatch.h"
#include "runtime/model/kv_pages.h"
#include "runtime/model/remote_experts.h"
#include "runtime/model/scratch.h"
#include "runtime/model/slice.h"
#include "runtime/model/step_batch.h"
#include "runtime/model/weights.h"

namespace troupe::model {

struct TransformerOptions {
  std::uint32_t num_blocks = 0;
  std::uint32_t num_swap_blocks = 0;  // beside the pages
  std::uint32_t block_size = 16;      // tokens
  std::uint32_t max_batch_tokens = 512;
  std::uint32_t max_batch_sequences = 64;
  std::uint32_t max_logits_rows = 0;  // of one call to logits(); 0 = max_batch_sequences
  kernels::DType kv_dtype = kernels::DType::kF32;
  std::filesystem::path packed_cache;  // a folder that keeps packed weights for later starts (packed_cache.h), or empty
};

// The forward pass of layers [first, last) of one tensor-parallel rank: pre-norm decoders (Llama, Touvron et al.
// 2023, and its relatives as ModelConfig describes them), dense or with experts.
//
// Where: weights, pages and activations lie in the memory of the kernels' device. The communicator takes matrices that
// lie there (staged_communicator.h, where the device is not the host). Thread-safety: one thread. The ranks of a group
// call forward() and logits() with the same batch in the same order. Memory: weights, KV pages and scratch are taken by
// load(); a step takes none. Numbers: a row's result does not depend on the other rows of the batch.
//
// Where expert shards hold the experts (Slice::expert_shards), a step sends them the rows in the middle of each such
// layer and waits for what they make of them, so that it is never repeated (Kernels::repeat).
class Transformer {
 public:
  // `kernels` and `communicator` outlive the transformer (or set_communicator replaces it). The communicator's rank
  // and world_size are the slice's. With world_size 1 it is never used.
  // Errors: of check_slice, of the checkpoint, kResourceExhausted for memory, kInvalidArgument for options.
  static Result<std::unique_ptr<Transformer>> load(const std::filesystem::path& model, const ModelConfig& config,
                                                   const Slice& slice, kernels::Kernels& kernels,
                                                   collective::Communicator& communicator,
                                                   const TransformerOptions& options,
                                                   const ProgressCallback& progress = {}, const Limits& limits = {});

  // Runs the batch through the layers of the slice and writes its K and V to the pages. The batch's lists stay as they
  // are until the step's logits were asked for. The first stage embeds
  // batch.tokens (hidden_in is empty); the others take hidden_in, (tokens, hidden_size), contiguous in the host's
  // memory, which is the same on every rank. Returns (tokens, hidden_size) in the device's memory, the same on every
  // rank, valid until the next call of forward(). Errors: kInvalidArgument for a batch that does not fit; what the
  // communicator reports. After an error the pages of the batch's tokens are undefined.
  Result<kernels::ConstMatrixF32> forward(const StepBatch& batch, kernels::ConstMatrixF32 hidden_in);

  // What forward() returned, where the host can read it: for the next stage. Waits for the device; valid as long.
  // Errors: what became of the device. REQUIRES: not the last stage
  Result<kernels::ConstMatrixF32> to_host(kernels::ConstMatrixF32 hidden);

  // Copies keys and values between blocks (KvPages::copy). Between steps only.
  Result<void> copy_blocks(std::span<const BlockCopy> copies) { return kv_.copy(copies); }

  // Last stage: the logits of `count` of the batch's logits_rows, from the first one on and at most max_logits_rows of
  // them, out of `hidden` as forward() returned it. Rank 0 gets (count, vocab_size) in the host's memory, valid until
  // the next call of logits(); the others get an empty matrix. A caller that wants more rows calls again with others.
  Result<kernels::ConstMatrixF32> logits(kernels::ConstMatrixF32 hidden, std::size_t first, std::size_t count);

  // The same, but in the device's memory, and nothing waits but the group, where it waits for the host. Some ranks may
  // call this one and others logits().
  Result<kernels::ConstMatrixF32> device_logits(kernels::ConstMatrixF32 hidden, std::size_t first, std::size_t count);

  // A new group after the cluster was put together again. Same rank and world_size. Between steps only.
  void set_communicator(collective::Communicator& communicator);

  // Who asks the expert shards, before the first step where the slice has some; outlives the transformer or the next
  // call. Between steps only.
  void set_remote_experts(RemoteExperts* experts) { remote_experts_ = experts; }

  // Nanoseconds spent in collectives since load: waiting for the other ranks and exchanging. Grows only.
  std::uint64_t collective_ns() const { return collective_ns_; }

  // The same of waiting for expert shards.
  std::uint64_t expert_wait_ns() const { return expert_wait_ns_; }

  const Slice& slice() const { return slice_; }
  const ModelConfig& config() const { return config_; }
  const ShardWeights& weights() const { return weights_; }
  std::uint32_t max_logits_rows() const { return options_.max_logits_rows; }
  std::uint64_t checkpoint_bytes_read() const { return weights_.checkpoint.bytes_read(); }
  std::uint64_t kv_bytes() const { return kv_.bytes(); }

  // Of every arena of the shard, and where the device is not the host, of what it has taken of the device in all
  // ("device") and of pinned memory ("pinned"). Errors: what became of the device.
  Result<std::vector<ArenaLevel>> memory_levels() const;

 private:
  Transformer(const ModelConfig& config, const Slice& slice, kernels::Kernels& kernels,
              collective::Communicator& communicator, const TransformerOptions& options, ShardWeights weights,
              KvPages kv, Arena arena, Arena host_arena, const Scratch& scratch);

  Result<void> run_layers();
  std::uint32_t num_pieces() const { return 2 * slice_.layer_count() + 2; }
  Result<void> compute_piece(std::uint32_t piece);
  void attention(const LayerWeights& layer, std::uint32_t index, std::size_t tokens);
  void mlp(const LayerWeights& layer, std::size_t tokens);
  Result<void> experts(const LayerWeights& layer, std::uint32_t index, std::size_t tokens);
  Result<void> dispatch(std::uint32_t index, kernels::ConstMatrixF32 normed, kernels::ConstMatrixF32 router_logits);
  Result<void> combine(kernels::MatrixF32 sum);
  void run_mlp(const MlpWeights& mlp, kernels::ConstMatrixF32 in, kernels::MatrixF32 out);
  Result<void> all_reduce(const kernels::MatrixF32& matrix);
  Result<kernels::ConstMatrixF32> on_host(kernels::ConstMatrixF32 matrix, kernels::MatrixF32 copy);
  Result<void> compute_logits(kernels::ConstMatrixF32 hidden, std::size_t first, std::size_t count,
                              kernels::MatrixF32 out);
  Result<void> gather_logits(kernels::MatrixF32 part, kernels::MatrixF32 out);

  ModelConfig config_;
  Slice slice_;
  RankShape shape_;
  kernels::Kernels* kernels_;
  collective::Communicator* communicator_;
  TransformerOptions options_;
  ShardWeights weights_;
  KvPages kv_;
  Arena arena_;
  Arena host_arena_;
  Scratch scratch_;
  std::vector<kernels::AttentionShape> shapes_;  // that layers have, each once
  std::vector<std::size_t> layer_shapes_;        // (layers of the slice): which of them
  std::vector<Range> vocab_parts_;               // (world_size): rows of lm_head by rank
  // Of the batch that forward() had last.
  std::size_t tokens_ = 0;
  std::size_t logits_rows_ = 0;
  kernels::StepRows padded_;
  ExpertDispatch expert_dispatch_;
  std::span<const DispatchedRows> dispatched_;  // of the layer that dispatch() had last
  RemoteExperts* remote_experts_ = nullptr;
  std::uint64_t collective_ns_ = 0;
  std::uint64_t expert_wait_ns_ = 0;
};

}  // namespace troupe::model
