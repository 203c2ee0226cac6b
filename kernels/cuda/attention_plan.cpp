#include "kernels/cuda/attention_plan.h"

#include <algorithm>
#include <cassert>

namespace troupe::kernels {
namespace {

std::uint32_t u32(std::size_t value) { return static_cast<std::uint32_t>(value); }

// Heads of a KV head that fit in a tile of so many lines.
std::size_t heads_of(const AttentionShape& shape, std::size_t lines) {
  return std::min(shape.num_heads / shape.num_kv_heads, lines);
}

// Appends the tiles of one sequence.
void add_tiles(const AttentionBatch& batch, const AttentionShape& shape, std::size_t sequence, std::size_t lines,
               std::size_t positions, std::vector<AttentionItem>& items) {
  const std::size_t rows = attention_rows(shape, lines);
  const std::size_t end_row = batch.row_starts[sequence + 1];
  for (std::size_t row = batch.row_starts[sequence]; row < end_row; row += rows) {
    AttentionItem item;
    item.first_row = u32(row);
    item.rows = u32(std::min(rows, end_row - row));
    item.first_end = u32(batch.context_lengths[sequence] - (end_row - 1 - row));
    item.table_start = batch.block_table_starts[sequence];
    const std::size_t window = shape.sliding_window;
    const std::size_t begin = window != 0 && item.first_end > window ? item.first_end - window : 0;
    item.first_position = u32(begin / positions * positions);
    item.end_position = item.first_end + item.rows - 1;
    item.piece = AttentionItem::kWhole;
    items.push_back(item);
  }
}

std::size_t first_stretch(const AttentionItem& item) { return item.first_position / kAttentionStretch; }
std::size_t stretches(const AttentionItem& item) {
  return (item.end_position + kAttentionStretch - 1) / kAttentionStretch - first_stretch(item);
}

// Replaces each item of several stretches by one item for each.
void cut(std::vector<AttentionItem>& items, AttentionPlan& plan) {
  const std::size_t tiles = items.size();
  std::size_t count = 0;
  for (const AttentionItem& item : items) count += stretches(item);
  items.resize(count);
  // From the back, so that nothing is overwritten before it is read.
  for (std::size_t tile = tiles, to = count; tile-- > 0;) {
    const AttentionItem whole = items[tile];
    const std::size_t pieces = stretches(whole);
    to -= pieces;
    if (pieces == 1) {
      items[to] = whole;
      continue;
    }
    plan.merges.push_back({whole.first_row, whole.rows, u32(plan.piece_rows), u32(pieces)});
    for (std::size_t i = 0; i < pieces; ++i) {
      AttentionItem& item = items[to + i];
      item = whole;
      const std::size_t begin = (first_stretch(whole) + i) * kAttentionStretch;
      item.first_position = u32(std::max<std::size_t>(begin, whole.first_position));
      item.end_position = u32(std::min<std::size_t>(begin + kAttentionStretch, whole.end_position));
      item.piece = u32(plan.piece_rows);
      plan.piece_rows += whole.rows;
    }
  }
}

}  // namespace

void plan_attention(const AttentionBatch& batch, const AttentionShape& shape, const AttentionTiles& tiles,
                    int multiprocessors, AttentionPlan& plan) {
  assert(kAttentionStretch % tiles.positions == 0);
  plan.wide.clear();
  plan.narrow.clear();
  plan.merges.clear();
  plan.piece_rows = 0;
  for (std::size_t sequence = 0; sequence < batch.context_lengths.size(); ++sequence) {
    const std::size_t rows = batch.row_starts[sequence + 1] - batch.row_starts[sequence];
    assert(rows <= batch.context_lengths[sequence]);
    if (rows * heads_of(shape, tiles.wide_lines) > tiles.most_narrow_lines) {
      add_tiles(batch, shape, sequence, tiles.wide_lines, tiles.positions, plan.wide);
    } else {
      add_tiles(batch, shape, sequence, tiles.narrow_lines, tiles.positions, plan.narrow);
    }
  }
  std::size_t blocks = plan.narrow.size() * attention_blocks(shape, tiles.narrow_lines);
  if (tiles.cuts_wide) blocks += plan.wide.size() * attention_blocks(shape, tiles.wide_lines);
  if (blocks >= tiles.blocks_a_multiprocessor * static_cast<std::size_t>(multiprocessors)) return;
  cut(plan.narrow, plan);
  if (tiles.cuts_wide) cut(plan.wide, plan);
}

}  // namespace troupe::kernels
