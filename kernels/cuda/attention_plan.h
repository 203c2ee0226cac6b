#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/tensor.h"

namespace troupe::kernels {

// How attention over pages is divided among the blocks of a GPU.
//
// A tile has lines: some rows of a sequence with heads that share its pages. Positions go in stretches, each of which
// starts anew; what they come to is put together in their order, by one block or, where an item is a stretch of its
// own, from pieces (kernels/cuda/attention_pieces.h). Both give the same bits.

constexpr std::size_t kAttentionStretch = 512;  // positions

// Some rows of one sequence, for one block of each KV head.
struct AttentionItem {
  std::uint32_t first_row = 0;
  std::uint32_t rows = 0;            // 0: nothing to do
  std::uint32_t first_end = 0;       // positions that the first row sees end here; each further row sees one more
  std::uint32_t table_start = 0;     // of the sequence, in the block tables
  std::uint32_t first_position = 0;  // of the positions to go through, a multiple of a tile
  std::uint32_t end_position = 0;
  std::uint32_t piece = 0;  // row of the pieces where the result of one stretch goes, the next rows behind it; kWhole:
                            // to `out`, of all of them
  static constexpr std::uint32_t kWhole = 0xffffffff;
};

// Stretches of the same rows, to be put together.
struct AttentionMerge {
  std::uint32_t first_row = 0;
  std::uint32_t rows = 0;
  std::uint32_t first_piece = 0;  // row of the pieces; the next stretch lies `rows` further
  std::uint32_t stretches = 0;
};

// The tiles of a kernel.
struct AttentionTiles {
  std::size_t positions = 0;
  std::size_t narrow_lines = 0;
  std::size_t wide_lines = 0;
  std::size_t most_narrow_lines = 0;  // a sequence with more of them goes in wide tiles
  bool cuts_wide = false;             // or narrow ones alone
  std::size_t blocks_a_multiprocessor = 0;
};

// The work of a batch. Its lists are copied to the device.
struct AttentionPlan {
  std::vector<AttentionItem> wide;    // of wide_lines
  std::vector<AttentionItem> narrow;  // of narrow_lines
  std::vector<AttentionMerge> merges;
  std::size_t piece_rows = 0;
};

// A plan's lists on the device.
struct AttentionLists {
  std::span<const AttentionItem> wide;
  std::size_t wide_lines = 0;  // of the plan's tiles
  std::span<const AttentionItem> narrow;
  std::span<const AttentionMerge> merges;
};

// What attention is to do, whatever its pages are like. All pointers are of the device.
struct AttentionWork {
  ConstMatrixF32 queries;  // (rows, num_heads * head_dim)
  AttentionShape shape;
  const std::uint32_t* block_tables = nullptr;
  AttentionLists lists;
  float* pieces = nullptr;  // (the plan's piece_rows, attention_piece_floats(num_heads, value_dim))
  MatrixF32 out;            // (rows, num_heads * value_dim)
};

// Where there are too few tiles for each multiprocessor to have some, they are cut into their stretches. `plan` is
// overwritten; its memory is kept.
void plan_attention(const AttentionBatch& batch, const AttentionShape& shape, const AttentionTiles& tiles,
                    int multiprocessors, AttentionPlan& plan);

// Blocks that the rows of an item take: KV heads, each in so many parts as its heads need of `lines` lines.
constexpr std::size_t attention_blocks(const AttentionShape& shape, std::size_t lines) {
  return shape.num_kv_heads * ((shape.num_heads / shape.num_kv_heads + lines - 1) / lines);
}

// The most rows of an item.
constexpr std::size_t attention_rows(const AttentionShape& shape, std::size_t lines) {
  const std::size_t heads = shape.num_heads / shape.num_kv_heads;
  return heads < lines ? lines / heads : 1;
}

// What a block's shared memory can be: with every GPU that kernels are compiled for, and with those made for servers
// (compute capability 8.0, 9.0 and 10.0).
constexpr std::size_t kLeastSharedBytes = 99 * 1024;
constexpr std::size_t kServerSharedBytes = 163 * 1024;

}  // namespace troupe::kernels
