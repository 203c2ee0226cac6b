#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/attention_pieces.h"
#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/gpu.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

// Attention over pages in tiles of 64 positions, with tensor cores and a running softmax (FlashAttention-2, Dao 2023),
// divided as kernels/cuda/attention_plan.h says.
//
// Numbers. Queries, keys, values and probabilities are rounded to BF16 (to F16 with F16 pages; int8 and E4M3 keys and
// values are exact, their scales float32); sums are float32. A row has the same bits however it is computed, alone or
// in a chunk, by few lines or many, in one piece or several: tiles and stretches begin at fixed positions, the order
// within a tile is that of the tensor cores in every kernel, and a tile of which a row sees nothing leaves it as it is.
// Each stretch of kAttentionStretch positions starts anew, and stretches are put together in their order. That takes
// tensor cores that treat the rows of an operand alike. A value that is not finite may show in earlier rows of its
// chunk as well.

// The tiles that fit into so much shared memory of a block (GpuProperties::shared_bytes_a_block). REQUIRES: head_dim <=
// kMaxGpuHeadDim; shared_bytes >= kLeastSharedBytes.
constexpr AttentionTiles paged_attention_tiles(std::size_t head_dim, std::size_t shared_bytes) {
  const std::size_t wide_lines = head_dim <= 128 || shared_bytes >= kServerSharedBytes ? 64 : 32;
  // Blocks that keep a multiprocessor busy: those that it holds at a time, twice.
  return {.positions = 64,
          .narrow_lines = 16,
          .wide_lines = wide_lines,
          .most_narrow_lines = wide_lines,
          .blocks_a_multiprocessor = 4};
}

struct PagedAttentionArgs {
  AttentionWork work;  // value_dim is head_dim
  PagedKv kv;          // on the device
};

// Kernels::attention. What lies behind the last position of a sequence's last block is not looked at. REQUIRES:
// head_dim <= kMaxGpuHeadDim; fewer than 2^32 pairs of a slot and a KV head.
TROUPE_GPU_FUNCTIONS(void paged_attention(Stream stream, const PagedAttentionArgs& args);)

}  // namespace troupe::kernels
