#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/model/arenas.h"
#include "runtime/model/checkpoint.h"
#include "runtime/model/packed_cache.h"
#include "runtime/model/slice.h"

namespace troupe::model {

// Told after every tensor: bytes read so far and in all.
using ProgressCallback = std::function<void(std::uint64_t bytes_read, std::uint64_t bytes_total)>;

// A matrix packed for the shard's kernels, with its bias.
struct Linear {
  std::unique_ptr<kernels::PackedWeight> weight;  // (out_features, in_features) of this rank
  std::span<const float> bias;                    // (out_features) or empty

  kernels::LinearWeight view() const { return {weight.get(), bias.empty() ? nullptr : bias.data()}; }
};

// Of packed matrices: a step reads all their bytes once, and multiplies each element once for each of its rows.
struct PackedSize {
  std::uint64_t bytes = 0;
  std::uint64_t elements = 0;

  void add(const kernels::PackedWeight& weight);
};

// SwiGLU between two projections: the MLP of a layer, or one of its experts.
struct MlpWeights {
  Linear gate;  // (intermediate, hidden_size)
  Linear up;    // (intermediate, hidden_size)
  Linear down;  // (hidden_size, intermediate); bias on rank 0 only
};

struct LayerWeights {
  std::span<const float> attention_norm;  // (hidden_size)
  std::span<const float> mlp_norm;        // (hidden_size)
  std::span<const float> query_norm;      // (head_dim) or empty
  std::span<const float> key_norm;        // (head_dim) or empty
  Linear query;                           // (heads * head_dim, hidden_size)
  Linear key;                             // (kv_heads * head_dim, hidden_size)
  Linear value;                           // (kv_heads * head_dim, hidden_size)
  Linear output;                    // (hidden_size, heads * head_dim); bias on rank 0 only: it enters the sum once
  MlpWeights mlp;                   // where there are no experts
  Linear router;                    // (num_experts, hidden_size)
  std::vector<MlpWeights> experts;  // (held_experts(config, slice)) or empty
  std::unique_ptr<kernels::Mixture> mixture;  // of these, on a rank that has all of them
  std::span<const float> shared_router;       // (hidden_size) or empty
  MlpWeights shared;                          // with shared_router
};

// The weights of one shard, in the memory of the kernels' device. Immutable after load. Keeps the checkpoint mapped:
// where the device is the host, the embedding table stays in its file, and kernels may refer to weights there.
struct ShardWeights {
  // Bytes that load() takes of the memory of the kernels' device for its arena.
  // Errors: of Checkpoint, as load(). REQUIRES: check_slice(config, slice).ok()
  static Result<std::uint64_t> arena_bytes(const std::filesystem::path& model, const ModelConfig& config,
                                           const Slice& slice, kernels::Kernels& kernels, const Limits& limits = {});

  // Reads the tensors of tensor_slices(config, slice), in that order, and packs them.
  // packed_cache: a folder for what was packed, taken from there by the next load (packed_cache.h); empty = none.
  // REQUIRES: check_slice(config, slice).ok()
  static Result<ShardWeights> load(const std::filesystem::path& model, const ModelConfig& config, const Slice& slice,
                                   kernels::Kernels& kernels, const std::filesystem::path& packed_cache = {},
                                   const ProgressCallback& progress = {}, const Limits& limits = {});

  // How much memory they take in the arena `weights`, or, where the device is the host, beside it.
  ArenaLevel level(bool is_on_host) const;

  Checkpoint checkpoint;
  Arena arena;                                       // norms, biases and frequencies; of a device that is not the host,
                                                     // everything
  std::vector<std::unique_ptr<std::byte[]>> copies;  // of matrices that lie unaligned in their file

  kernels::WeightView embedding;               // first stage: (vocab rows of this rank, hidden_size)
  std::vector<LayerWeights> layers;            // (layers of the slice)
  std::span<const float> final_norm;           // last stage: (hidden_size)
  Linear lm_head;                              // last stage: (vocab rows of this rank, hidden_size)
  std::span<const float> inverse_frequencies;  // of rotary embedding: (head_dim / 2); none of an expert shard

  PackedSize layers_size;                              // of every matrix in `layers` but the experts
  PackedSize experts_size;                             // of all experts, of which a token takes some
  PackedSize lm_head_size;                             // last stage
  kernels::DType stored_dtype = kernels::DType::kF32;  // in the file, of the matrices that hold most elements

  std::unique_ptr<PackedCacheWriter> writer;  // last, so that it ends before the weights that it writes
};

}  // namespace troupe::model
