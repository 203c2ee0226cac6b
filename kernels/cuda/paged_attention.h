#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/rope.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

// Attention over pages in tiles of 64 positions, with tensor cores and a running softmax (FlashAttention-2, Dao 2023).
// A tile has lines: some rows of a sequence with the heads of one KV head, which share its pages.
//
// Numbers. Queries, keys, values and probabilities are rounded to BF16 (to F16 with F16 pages; int8 and E4M3 keys and
// values are exact, their scales float32); sums are float32. A row has the same bits however it is computed, alone or
// in a chunk, by few lines or many, in one piece or several: tiles and stretches begin at fixed positions, the order
// within a tile is that of the tensor cores in every kernel, and a tile of which a row sees nothing leaves it as it is.
// Each stretch of kAttentionStretch positions starts anew, and stretches are put together in their order. That takes
// tensor cores that treat the rows of an operand alike. A value that is not finite may show in earlier rows of its chunk
// as well.

constexpr std::size_t kAttentionStretch = 512;  // positions
constexpr std::size_t kNarrowLines = 16;
constexpr std::size_t kWideLines = 64;

// Some rows of one sequence, for one block of each KV head.
struct AttentionItem {
  std::uint32_t first_row = 0;
  std::uint32_t rows = 0;            // 0: nothing to do
  std::uint32_t first_end = 0;       // positions that the first row sees end here; each further row sees one more
  std::uint32_t table_start = 0;     // of the sequence, in the block tables
  std::uint32_t first_position = 0;  // of the positions to go through, a multiple of a tile
  std::uint32_t end_position = 0;
  std::uint32_t piece = 0;  // where the result of one stretch goes; kWhole: to `out`, of all of them
  static constexpr std::uint32_t kWhole = 0xffffffff;
};

// Pieces of the same rows, to be put together.
struct AttentionMerge {
  std::uint32_t first_row = 0;
  std::uint32_t rows = 0;
  std::uint32_t first_piece = 0;
  std::uint32_t pieces = 0;
};

// How the work of a batch is divided. Its lists are copied to the device.
struct AttentionPlan {
  std::vector<AttentionItem> wide;    // of kWideLines
  std::vector<AttentionItem> narrow;  // of kNarrowLines
  std::vector<AttentionMerge> merges;
  std::size_t pieces = 0;
};

// Wide tiles for sequences with many rows. What remains is narrow, and cut into stretches unless there are so many
// tiles that each multiprocessor has some. `plan` is overwritten; its memory is kept.
void plan_attention(const AttentionBatch& batch, const AttentionShape& shape, int multiprocessors, AttentionPlan& plan);

// Device memory for the pieces of a plan.
std::size_t attention_piece_bytes(const AttentionShape& shape);

// All pointers are of the device.
struct PagedAttentionArgs {
  ConstMatrixF32 queries;  // (rows, num_heads * head_dim)
  PagedKv kv;
  AttentionShape shape;
  const std::uint32_t* block_tables = nullptr;
  // The plan's lists.
  const AttentionItem* wide = nullptr;
  std::size_t num_wide = 0;
  const AttentionItem* narrow = nullptr;
  std::size_t num_narrow = 0;
  const AttentionMerge* merges = nullptr;
  std::size_t num_merges = 0;
  float* pieces = nullptr;  // attention_piece_bytes(shape) for each piece
  MatrixF32 out;            // (rows, num_heads * head_dim)
};

// Kernels::attention. What lies behind the last position of a sequence's last block is not looked at. REQUIRES:
// head_dim <= kMaxGpuHeadDim; fewer than 2^32 pairs of a slot and a KV head.
TROUPE_GPU_FUNCTIONS(void paged_attention(Stream stream, const PagedAttentionArgs& args);)

}  // namespace troupe::kernels
