#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "kernels/device_memory.h"
#include "kernels/row_sampler.h"
#include "kernels/tensor.h"
#include "runtime/base/result.h"

namespace troupe::kernels {

// A weight matrix in the layout that one implementation's inner loop reads. Made once at load by
// Kernels::pack; opaque to everybody else. Immutable, may be shared by threads.
class PackedWeight {
 public:
  virtual ~PackedWeight() = default;
  virtual std::size_t rows() const = 0;   // out_features
  virtual std::size_t cols() const = 0;   // in_features
  virtual std::size_t bytes() const = 0;  // memory that one pass over the weight reads

  // The memory of the packed weight, from which Kernels::pack makes it again; empty where it refers to what was given,
  // or is not worth keeping.
  virtual std::span<const std::byte> image() const { return {}; }
};

// Changes whenever an image of any implementation means something else.
inline constexpr unsigned kImageVersion = 2;

// A weight and its bias: null or (out_features).
struct LinearWeight {
  const PackedWeight* weight = nullptr;
  const float* bias = nullptr;
};

// How rotary embedding pairs up the elements of a head.
enum class RopeLayout : std::uint8_t {
  kHalves,       // (x[i], x[i + dim/2]): Hugging Face checkpoints ("rotate_half")
  kInterleaved,  // (x[2i], x[2i + 1]): llama2.c, GGUF "norm"
};

// Rotary embedding (Su et al. 2021, eq. 34) of the first 2 * inverse_frequencies.size() elements of every head. cos and
// sin are multiplied by `magnitude`.
struct Rotary {
  std::span<const float> inverse_frequencies;
  float magnitude = 1;
  RopeLayout layout = RopeLayout::kHalves;
};

// What turns hidden states into the queries, keys and values of heads. Each weight is packed in groups of head_dim.
struct QkvWeights {
  LinearWeight query;                 // (num_heads * head_dim, in_features)
  LinearWeight key;                   // (num_kv_heads * head_dim, in_features)
  LinearWeight value;                 // (num_kv_heads * head_dim, in_features)
  std::span<const float> query_norm;  // (head_dim): RMS norm of each head by itself before RoPE (Qwen3); or empty
  std::span<const float> key_norm;    // the same for keys
  float eps = 0;                      // of these norms
};

// The KV pages of one layer. A slot is a token's place: block id * block_size + offset within the block. Keys lie so
// that a vector holds one element of several tokens, which is how scores are computed.
struct PagedKv {
  void* keys = nullptr;           // (num_blocks, num_kv_heads, head_dim, block_size)
  void* values = nullptr;         // (num_blocks, num_kv_heads, block_size, head_dim)
  float* key_scales = nullptr;    // has_page_scales: (num_blocks, num_kv_heads, block_size), of each token's key
  float* value_scales = nullptr;  // the same of values
  DType dtype = DType::kF32;      // kF32, kF16, kBF16, kI8 or kE4M3
  std::size_t num_blocks = 0;
  std::size_t block_size = 0;
  std::size_t num_kv_heads = 0;
  std::size_t head_dim = 0;

  constexpr std::size_t slots() const { return num_blocks * block_size; }

  // Of a token's scale of one head.
  constexpr std::size_t scale_index(std::size_t slot, std::size_t kv_head) const {
    return (slot / block_size * num_kv_heads + kv_head) * block_size + slot % block_size;
  }
  // Of the first element of a token's key; the next ones lie block_size apart.
  constexpr std::size_t key_index(std::size_t slot, std::size_t kv_head) const {
    return (slot / block_size * num_kv_heads + kv_head) * head_dim * block_size + slot % block_size;
  }
  // Of the first element of a token's value; the next ones follow it.
  constexpr std::size_t value_index(std::size_t slot, std::size_t kv_head) const {
    return scale_index(slot, kv_head) * head_dim;
  }
};

// The sequences of one step, flat: sequence i owns rows [row_starts[i], row_starts[i + 1]) of the batch.
struct AttentionBatch {
  std::span<const std::uint32_t> row_starts;          // (sequences + 1)
  std::span<const std::uint32_t> context_lengths;     // (sequences): tokens in the pages, this step's included
  std::span<const std::uint32_t> block_tables;        // flat block ids
  std::span<const std::uint32_t> block_table_starts;  // (sequences + 1) into block_tables
};

struct AttentionShape {
  std::size_t num_heads = 0;
  std::size_t num_kv_heads = 0;
  std::size_t head_dim = 0;
  float scale = 0;                 // usually 1 / sqrt(head_dim)
  std::size_t sliding_window = 0;  // a query sees the last so many positions, itself included; 0 = all
};

inline constexpr std::uint32_t kTokenIsKnown = 0xffffffff;

// What the operations of one step work on, besides matrices: lists in the host's memory.
struct StepLists {
  std::span<const std::uint32_t> tokens;  // (rows), for embed(); or empty
  // (rows): which row of the batch that sampler() had last has drawn the token, or kTokenIsKnown; or empty.
  std::span<const std::uint32_t> token_sources;
  std::span<const std::uint32_t> positions;    // (rows)
  std::span<const std::uint32_t> slots;        // (rows): where their keys and values go
  AttentionBatch attention;                    // the sequences of these rows
  std::span<const AttentionShape> shapes;      // those that attention() is asked for
  std::span<const std::uint32_t> logits_rows;  // rows that gather_logits_rows() picks
  // Rows that matrices have room for, where all operations are called through repeat(); else 0.
  std::size_t max_rows = 0;
  std::size_t max_logits_rows = 0;
};

// How many rows the matrices of a step have: as many as its lists, or more, which mean nothing and write to no page.
struct StepRows {
  std::size_t rows = 0;
  std::size_t logits_rows = 0;
};

// Work that is the same in every step of equal StepRows, but for what the step's lists hold.
struct StepPart {
  enum class Kind : std::uint8_t { kLayers, kLogits };
  Kind kind = Kind::kLayers;
  std::uint32_t piece = 0;  // where it comes in pieces, between which something else is done
};

// One expert of a mixture: SwiGLU between two projections.
struct ExpertWeights {
  const PackedWeight* gate = nullptr;  // (intermediate, in_features)
  const PackedWeight* up = nullptr;    // (intermediate, in_features)
  const PackedWeight* down = nullptr;  // (in_features, intermediate)
};

// How rows choose their experts.
struct MixtureShape {
  std::size_t experts_per_token = 0;
  bool normalise = false;  // weights of the chosen sum up to 1
};

// The experts of one layer as one implementation reads them. Made once at load by Kernels::make_mixture.
class Mixture {
 public:
  virtual ~Mixture() = default;
};

// What Kernels::mix works in. On the host `choices` is the number of rows, elsewhere rows * experts_per_token.
struct MixtureScratch {
  MatrixF32 routed;  // on the host: (rows, in_features)
  MatrixF32 gated;   // (choices, intermediate)
  MatrixF32 out;     // (choices, in_features)
};

// The operations of a transformer on one device. One object a shard.
//
// Thread-safety: calls on one object come from one thread; an implementation uses its own worker team inside.
// Numbers: accumulation in float32 (or better); a row's result never depends on the other rows of the batch, nor
// on the number of worker threads.
// Memory: matrices, biases, norms' weights, frequencies, embedding tables and pages lie in memory(). Results are there
// once memory() was asked for them. Aliasing: outputs do not overlap inputs unless a comment says so. Sizes that do not
// match are bugs (assertions).
class Kernels {
 public:
  virtual ~Kernels() = default;

  virtual std::string_view name() const = 0;  // "reference", "avx2", "avx512", ...

  // Lives as long as this object.
  virtual DeviceMemory& memory() = 0;

  // Bytes of memory() that a packed weight takes; 0 where the host is the device: there it is mapped, or in memory of
  // its own.
  virtual std::uint64_t packed_bytes(DType, std::size_t /*rows*/, std::size_t /*cols*/) const { return 0; }

  // Copies the weight into this implementation's layout (reading `weight` once), or refers to it where the layout is
  // the same: then the caller keeps it mapped. group: outputs that one operation needs together (QkvWeights), a divisor
  // of weight.rows; 0 = none. image: that of the same weight and group by the same implementation (name) and
  // kImageVersion, which is copied instead, and the weight is not read; one of another size is not used. place:
  // packed_bytes of memory(), at a multiple of 64, which outlive what is packed there; null = memory of its own. The
  // weight and the image lie in the host's memory. Errors: of memory().allocate.
  virtual Result<std::unique_ptr<PackedWeight>> pack(const WeightView& weight, std::size_t group = 0,
                                                     std::span<const std::byte> image = {}, void* place = nullptr) = 0;

  // The weights outlive the mixture. Errors: of memory().allocate; kUnsupported for experts that this implementation
  // cannot mix. REQUIRES: experts are of one shape.
  virtual Result<std::unique_ptr<Mixture>> make_mixture(std::span<const ExpertWeights> experts,
                                                        const MixtureShape& shape) = 0;

  // From now on operations work on this step. The lists stay as they are until the last of its operations was called.
  // With max_rows, small steps may be padded, up to max_rows and max_logits_rows.
  virtual StepRows begin_step(const StepLists& lists) = 0;

  // Calls `work`, which calls operations of the step and nothing that waits for the device, or does what it did for
  // this part in an earlier step of the same sizes: matrices, weights and pages lie where they lay. The first steps of
  // a size, at least, call it. Errors: those of `work`; what became of the device.
  virtual Result<void> repeat([[maybe_unused]] StepPart part, const std::function<Result<void>()>& work) {
    return work();
  }

  // From now on `work` does something else than what repeat() was given before.
  virtual void forget_repeated() {}

  // out(rows, out_features) = in(rows, in_features) * weight^T + bias.
  virtual void linear(ConstMatrixF32 in, const LinearWeight& weight, MatrixF32 out) = 0;

  // out = silu(in * gate^T + bias) * (in * up^T + bias), element by element (SwiGLU, Shazeer 2020). Both weights have
  // the same shape.
  virtual void swiglu(ConstMatrixF32 in, const LinearWeight& gate, const LinearWeight& up, MatrixF32 out) = 0;

  // Projects, norms where there are norms, and rotates queries and keys (not values) by the step's positions; writes
  // queries, (rows, num_heads * head_dim), and the keys and values to the step's slots of the pages, rounded to the
  // pages' type (kI8 and kE4M3: by head, whose largest element becomes 127 or 448).
  virtual void project_qkv(ConstMatrixF32 in, const QkvWeights& weights, const Rotary& rotary, MatrixF32 queries,
                           const PagedKv& kv) = 0;

  // out(i, :) = table(tokens[i] - first_row, :) where the table holds that row, else zeros (vocabulary-parallel).
  virtual void embed(const WeightView& table, std::uint32_t first_row, MatrixF32 out) = 0;

  // out = in / sqrt(mean(in^2) + eps) * weight, by row (Zhang & Sennrich 2019). out may be in.
  virtual void rms_norm(ConstMatrixF32 in, std::span<const float> weight, float eps, MatrixF32 out) = 0;

  // sum += addend, then out = rms_norm(sum) as above.
  virtual void add_rms_norm(ConstMatrixF32 addend, MatrixF32 sum, std::span<const float> weight, float eps,
                            MatrixF32 out) = 0;

  // Causal attention over the pages, which already hold this step's keys and values. queries and out:
  // (rows, num_heads * head_dim). The last row of a sequence is position context_length - 1. shape: index of one of the
  // step's shapes.
  virtual void attention(ConstMatrixF32 queries, const PagedKv& kv, std::size_t shape, MatrixF32 out) = 0;

  // sum += addend.
  virtual void add(ConstMatrixF32 addend, MatrixF32 sum) = 0;

  // out(i, :) = in(logits_rows[first + i], :), for as many as there are.
  virtual void gather_logits_rows(ConstMatrixF32 in, std::size_t first, MatrixF32 out) = 0;

  // sum(row, :) += for each of the row's experts, in their order, its weight * what it makes of in(row, :). A row's
  // experts are those with its largest router logits, weighed by the softmax of these (Shazeer et al. 2017); of equal
  // logits the lower expert is chosen first, and logits that are not numbers still choose as many experts.
  // router_logits: (rows, experts).
  virtual void mix(ConstMatrixF32 in, ConstMatrixF32 router_logits, const Mixture& mixture,
                   const MixtureScratch& scratch, MatrixF32 sum) = 0;

  // What draws tokens on the device; null where the host draws. Lives as long as this object.
  virtual RowSampler* sampler() { return nullptr; }

  // out(i, :) *= sigmoid(in(i, :) * weight): how much of a shared expert a token takes (Qwen2 MoE).
  virtual void scale_by_sigmoid(ConstMatrixF32 in, std::span<const float> weight, MatrixF32 out) = 0;
};

}  // namespace troupe::kernels
