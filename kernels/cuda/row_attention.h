#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/gpu.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

// Causal attention of every query row over the pages of its sequence (Kernels::attention). All pointers, those of `kv`
// among them, are of the device, strides in elements.
struct RowAttentionArgs {
  const float* queries = nullptr;  // (rows, num_heads * head_dim)
  std::size_t queries_stride = 0;
  float* out = nullptr;  // the same
  std::size_t out_stride = 0;
  std::size_t rows = 0;
  const std::uint32_t* row_starts = nullptr;          // (num_sequences + 1)
  const std::uint32_t* context_lengths = nullptr;     // (num_sequences)
  const std::uint32_t* block_tables = nullptr;        // flat
  const std::uint32_t* block_table_starts = nullptr;  // (num_sequences + 1)
  std::size_t num_sequences = 0;
  PagedKv kv;
  AttentionShape shape;  // head_dim at most 256
};

// A row's numbers are the same in any batch: keys are taken 64 at a time from position 0 on (Milakov & Gimelshein 2018:
// online softmax), whatever the rows around it.
//
// Asynchronous on the stream.
TROUPE_GPU_FUNCTIONS(void row_attention(Stream stream, const RowAttentionArgs& args);)

}  // namespace troupe::kernels
