#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/tensor.h"
#include "runtime/base/result.h"
#include "runtime/model/config.h"

namespace troupe::model {

// Half-open range of rows, columns, heads, ....
struct Range {
  std::uint64_t first = 0;
  std::uint64_t last = 0;

  std::uint64_t size() const { return last - first; }
  bool operator==(const Range&) const = default;
};

// Part `rank` of [0, total) cut into world_size parts whose sizes differ by at most one.
Range even_part(std::uint64_t total, std::uint32_t rank, std::uint32_t world_size);

// What one shard computes: layers [first_layer, last_layer) of num_layers, as tensor-parallel rank `rank` of
// world_size. The first stage also embeds, the last one also makes logits. Or, as an expert shard, some of the routed
// experts of these layers and nothing else.
struct Slice {
  std::uint32_t first_layer = 0;
  std::uint32_t last_layer = 0;
  std::uint32_t num_layers = 0;
  std::uint32_t rank = 0;
  std::uint32_t world_size = 1;

  // How many expert shards hold the routed experts of these layers, each an even part of every layer's; 0 = none: every
  // rank holds a part of every expert.
  std::uint32_t expert_shards = 0;
  std::optional<std::uint32_t> expert_shard;  // which of them this is; as of rank 0 of 1

  bool is_first_stage() const { return first_layer == 0; }
  bool is_last_stage() const { return last_layer == num_layers; }
  std::uint32_t layer_count() const { return last_layer - first_layer; }
};

// The parts of a layer that a rank owns. With fewer KV heads than ranks, several ranks hold the same KV head.
struct RankShape {
  Range heads;
  Range kv_heads;
  Range intermediate;  // of the MLP or of every expert
  Range shared;        // of the shared expert
  Range dense;         // of the MLP, where most layers have experts
  Range vocab;         // rows of the embedding and of lm_head
};

// What the ranks of a model are cut between, so that the blocks of quantised formats (kernels/quant.h) stay whole.
// All 1 for formats without blocks.
struct Units {
  std::uint64_t intermediate = 1;  // elements of the MLP or of an expert
  std::uint64_t kv_heads = 1;      // KV heads with their query heads
  std::uint64_t heads = 1;         // query heads, where several ranks hold the same KV head
  std::uint64_t vocab = 1;         // rows of the table and of lm_head
};
Units slicing_units(const ModelConfig& config);

// Whether a layer of [first_layer, last_layer) has experts.
bool has_experts(const ModelConfig& config, const Slice& slice);

// Of a layer that has experts, those of which the shard holds weights: whole ones if it is an expert shard, and none if
// others are.
Range held_experts(const ModelConfig& config, const Slice& slice);

// Expert shard K is asked by the rank of number K modulo world_size: whether this rank asks any.
bool asks_experts(const Slice& slice);

// REQUIRES: check_slice(config, slice).ok()
RankShape rank_shape(const ModelConfig& config, const Slice& slice);

// Whether the model can be cut so. Errors (kInvalidArgument) name the key of config.json that is in the way and
// what world sizes work.
Result<void> check_slice(const ModelConfig& config, const Slice& slice);

// The part of check_slice that is about expert shards: whether they can hold the experts of these layers.
Result<void> check_expert_shards(const ModelConfig& config, const Slice& slice);

// What a tensor is for; kernels see it as a matrix (rows = out_features, cols = in_features) or a vector (rows = 1).
enum class TensorRole : std::uint8_t {
  kEmbedding,
  kAttentionNorm,
  kQuery,
  kQueryBias,
  kKey,
  kKeyBias,
  kValue,
  kValueBias,
  kQueryNorm,
  kKeyNorm,
  kOutput,
  kOutputBias,
  kMlpNorm,
  kGate,
  kGateBias,
  kUp,
  kUpBias,
  kDown,
  kDownBias,
  kRouter,
  kExpertGate,
  kExpertUp,
  kExpertDown,
  kSharedRouter,  // a vector: its dot product, through a sigmoid, weighs the shared expert
  kSharedGate,
  kSharedUp,
  kSharedDown,
  kFinalNorm,
  kLmHead,
};

constexpr bool is_of_an_expert(TensorRole role) {
  return role == TensorRole::kExpertGate || role == TensorRole::kExpertUp || role == TensorRole::kExpertDown;
}

// One tensor of the checkpoint and the part of it that a shard owns.
struct TensorSlice {
  TensorRole role;
  std::uint32_t layer = 0;  // of the model, for the roles of a layer
  std::string name;         // as in the checkpoint
  bool is_vector = false;
  std::uint64_t rows = 0;  // of the whole tensor; 1 for a vector
  std::uint64_t cols = 0;
  Range row_range;
  Range col_range;
  std::uint32_t expert = 0;  // of the layer, for the roles of an expert

  std::uint64_t elements() const { return row_range.size() * col_range.size(); }
};

// Every tensor that the shard reads, in the order it reads them. The loader, the byte counts and the tests all
// go by this list. REQUIRES: check_slice(config, slice).ok()
std::vector<TensorSlice> tensor_slices(const ModelConfig& config, const Slice& slice);

// Bytes of the part of a tensor as the checkpoint stores it, by the config's word. Needs no file: for the planner.
std::uint64_t stored_bytes(const ModelConfig& config, const TensorSlice& tensor);

// The same of all weights of a shard.
// REQUIRES: check_slice(config, slice).ok()
std::uint64_t weight_bytes(const ModelConfig& config, const Slice& slice);

// Bytes of K and V of one block of `block_size` tokens, all layers of the shard together. For the planner.
// REQUIRES: check_slice(config, slice).ok()
std::uint64_t bytes_per_block(const ModelConfig& config, const Slice& slice, std::uint32_t block_size,
                              kernels::DType kv_dtype = kernels::DType::kF32);

}  // namespace troupe::model
