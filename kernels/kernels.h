#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "kernels/tensor.h"

namespace troupe::kernels {

// A weight matrix in the layout that one implementation's inner loop reads. Made once at load by
// Kernels::pack; opaque to everybody else. Immutable, may be shared by threads.
class PackedWeight {
 public:
  virtual ~PackedWeight() = default;
  virtual std::size_t rows() const = 0;   // out_features
  virtual std::size_t cols() const = 0;   // in_features
  virtual std::size_t bytes() const = 0;  // memory that one pass over the weight reads
};

// How rotary embedding pairs up the elements of a head.
enum class RopeLayout : std::uint8_t {
  kHalves,       // (x[i], x[i + dim/2]): Hugging Face checkpoints ("rotate_half")
  kInterleaved,  // (x[2i], x[2i + 1]): llama2.c, GGUF "norm"
};

// The KV pages of one layer as attention sees them. A block holds block_size tokens:
// keys and values are (num_blocks, block_size, num_kv_heads, head_dim) each.
struct PagedKv {
  void* keys = nullptr;
  void* values = nullptr;
  DType dtype = DType::kF32;  // kF32, kF16 or kBF16
  std::size_t num_blocks = 0;
  std::size_t block_size = 0;
  std::size_t num_kv_heads = 0;
  std::size_t head_dim = 0;
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

// The operations of a transformer on one device. One object a shard.
//
// Thread-safety: calls on one object come from one thread; an implementation uses its own worker team inside.
// Numbers: accumulation in float32 (or better); a row's result never depends on the other rows of the batch, nor
// on the number of worker threads.
// Aliasing: outputs do not overlap inputs unless a comment says so. Sizes that do not match are bugs (assertions).
class Kernels {
 public:
  virtual ~Kernels() = default;

  virtual std::string_view name() const = 0;  // "reference", "avx2", "avx512", ...

  // Copies the weight into this implementation's layout (reading `weight` once, sequentially), or refers to it
  // where the layout is the same: then the caller keeps it mapped.
  virtual std::unique_ptr<PackedWeight> pack(const WeightView& weight) = 0;

  // out(rows, out_features) = in(rows, in_features) * weight^T + bias; bias is null or (out_features).
  virtual void linear(ConstMatrixF32 in, const PackedWeight& weight, const float* bias, MatrixF32 out) = 0;

  // out(i, :) = table(tokens[i] - first_row, :) where the table holds that row, else zeros (vocabulary-parallel).
  virtual void embed(std::span<const std::uint32_t> tokens, const WeightView& table, std::uint32_t first_row,
                     MatrixF32 out) = 0;

  // out = in / sqrt(mean(in^2) + eps) * weight, by row (Zhang & Sennrich 2019). out may be in.
  virtual void rms_norm(ConstMatrixF32 in, std::span<const float> weight, float eps, MatrixF32 out) = 0;

  // RMS norm of each head by itself (Qwen3's QK norm), in place. heads: (rows, num_heads * weight.size()).
  virtual void rms_norm_heads(MatrixF32 heads, std::span<const float> weight, float eps) = 0;

  // Rotary embedding (Su et al. 2021, eq. 34), in place, of the first 2 * inverse_frequencies.size() elements of
  // every head. heads: (rows, num_heads * head_dim); positions: (rows). cos and sin are multiplied by `magnitude`.
  virtual void rope(MatrixF32 heads, std::size_t head_dim, std::span<const std::uint32_t> positions,
                    std::span<const float> inverse_frequencies, float magnitude, RopeLayout layout) = 0;

  // Writes keys and values of this step, (rows, num_kv_heads * head_dim) each, to slots: slot = block id *
  // block_size + offset within the block; slots: (rows).
  virtual void write_kv(ConstMatrixF32 keys, ConstMatrixF32 values, std::span<const std::uint32_t> slots,
                        const PagedKv& kv) = 0;

  // Causal attention over the pages, which already hold this step's keys and values. queries and out:
  // (rows, num_heads * head_dim). The last row of a sequence is position context_length - 1.
  virtual void attention(ConstMatrixF32 queries, const PagedKv& kv, const AttentionBatch& batch,
                         const AttentionShape& shape, MatrixF32 out) = 0;

  // out = silu(gate) * up, element by element (SwiGLU, Shazeer 2020). out may be gate or up.
  virtual void silu_multiply(ConstMatrixF32 gate, ConstMatrixF32 up, MatrixF32 out) = 0;

  // sum += addend.
  virtual void add(ConstMatrixF32 addend, MatrixF32 sum) = 0;
};

}  // namespace troupe::kernels
