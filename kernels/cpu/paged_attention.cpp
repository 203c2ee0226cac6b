#include "kernels/cpu/paged_attention.h"

#include <algorithm>
#include <cassert>

#include "kernels/cpu/kv_slots.h"

namespace troupe::kernels {
namespace {

// Tiles for each member; with fewer, contexts are cut.
constexpr std::size_t kTilesPerMember = 4;

std::size_t state_size(std::size_t head_dim) { return kMaxAttendQueries * (head_dim + 2); }

AttendState state_at(float* memory, std::size_t head_dim) {
  float* const sums = memory + kMaxAttendQueries * head_dim;
  return {memory, sums, sums + kMaxAttendQueries};
}

}  // namespace

void PagedAttention::run(ConstMatrixF32 queries, const PagedKv& kv, const AttentionBatch& batch,
                         const AttentionShape& shape, MatrixF32 out) {
  assert(queries.cols == shape.num_heads * shape.head_dim && out.cols == queries.cols && out.rows == queries.rows);
  assert(shape.num_heads % shape.num_kv_heads == 0 && is_page_type(kv.dtype));
  assert(kv.num_kv_heads == shape.num_kv_heads && kv.head_dim == shape.head_dim);
  const Call call = {queries, kv, batch, shape, out};
  make_tiles(call);
  if (tiles_.size() < kTilesPerMember * team_.size() && team_.size() > 1) {
    run_stretches(call);
  } else {
    run_tiles(call);
  }
}

void PagedAttention::make_tiles(const Call& call) {
  const AttentionShape& shape = call.shape;
  const std::size_t group = shape.num_heads / shape.num_kv_heads;
  const std::size_t heads = std::min(group, kMaxAttendQueries);
  const std::size_t rows = kMaxAttendQueries / heads;
  tiles_.clear();
  for (std::size_t sequence = 0; sequence < call.batch.context_lengths.size(); ++sequence) {
    const std::size_t end_row = call.batch.row_starts[sequence + 1];
    assert(end_row - call.batch.row_starts[sequence] <= call.batch.context_lengths[sequence]);
    for (std::size_t row = call.batch.row_starts[sequence]; row < end_row; row += rows) {
      Tile tile;
      tile.sequence = sequence;
      tile.first_row = row;
      tile.rows = std::min(rows, end_row - row);
      tile.first_end = call.batch.context_lengths[sequence] - (end_row - 1 - row);
      tile.end = tile.first_end + tile.rows - 1;
      const bool is_windowed = shape.sliding_window != 0 && tile.first_end > shape.sliding_window;
      tile.begin = is_windowed ? tile.first_end - shape.sliding_window : 0;
      for (tile.kv_head = 0; tile.kv_head < shape.num_kv_heads; ++tile.kv_head) {
        for (std::size_t head = 0; head < group; head += heads) {
          tile.first_head = tile.kv_head * group + head;
          tile.heads = std::min(heads, group - head);
          tiles_.push_back(tile);
        }
      }
    }
  }
}

// state = what the rows of the tile see of one stretch.
void PagedAttention::attend(const Call& call, const Tile& tile, std::size_t stretch, const AttendState& state) const {
  const PagedKv& kv = call.kv;
  ops_.attend({.queries = call.queries.row(tile.first_row) + tile.first_head * kv.head_dim,
               .query_stride = call.queries.row_stride,
               .rows = tile.rows,
               .heads = tile.heads,
               .head_dim = kv.head_dim,
               .dtype = kv.dtype,
               .keys = kv.keys,
               .values = kv.values,
               .key_scales = kv.key_scales,
               .value_scales = kv.value_scales,
               .kv_head = tile.kv_head,
               .num_kv_heads = kv.num_kv_heads,
               .block_table = call.batch.block_tables.data() + call.batch.block_table_starts[tile.sequence],
               .block_size = kv.block_size,
               .begin = std::max(tile.begin, (tile.first_stretch() + stretch) * kAttendStretch),
               .end = std::min(tile.end, (tile.first_stretch() + stretch + 1) * kAttendStretch),
               .first_end = tile.first_end,
               .window = call.shape.sliding_window,
               .scale = call.shape.scale},
              state);
}

void PagedAttention::finish(const Call& call, const Tile& tile, const AttendState& state) const {
  const std::size_t head_dim = call.kv.head_dim;
  for (std::size_t row = 0; row < tile.rows; ++row) {
    for (std::size_t head = 0; head < tile.heads; ++head) {
      const std::size_t query = row * tile.heads + head;
      ops_.scale(state.values + query * head_dim, 1 / state.sums[query], head_dim,
                 call.out.row(tile.first_row + row) + (tile.first_head + head) * head_dim);
    }
  }
}

void PagedAttention::run_tiles(const Call& call) {
  const std::size_t head_dim = call.kv.head_dim;
  for (auto& memory : work_) memory.resize(std::max(memory.size(), 2 * state_size(head_dim)));
  team_.run(tiles_.size(), [&](std::size_t index, std::size_t member) {
    const Tile& tile = tiles_[index];
    const AttendState total = state_at(work_[member].data(), head_dim);
    const AttendState further = state_at(work_[member].data() + state_size(head_dim), head_dim);
    attend(call, tile, 0, total);
    for (std::size_t stretch = 1; stretch < tile.stretches(); ++stretch) {
      attend(call, tile, stretch, further);
      ops_.combine(total, further, tile.rows * tile.heads, head_dim);
    }
    finish(call, tile, total);
  });
}

void PagedAttention::run_stretches(const Call& call) {
  const std::size_t head_dim = call.kv.head_dim;
  pieces_.clear();
  for (std::size_t tile = 0; tile < tiles_.size(); ++tile) {
    tiles_[tile].first_state = pieces_.size();
    for (std::size_t stretch = 0; stretch < tiles_[tile].stretches(); ++stretch) pieces_.push_back({tile, stretch});
  }
  // As many as the longest context that the pages hold can ever need, so that a growing one takes no memory.
  const std::size_t most = kTilesPerMember * team_.size() * (call.kv.slots() / kAttendStretch + 2);
  pieces_.reserve(most);
  if (shared_.size() < most * state_size(head_dim)) shared_.resize(most * state_size(head_dim));
  assert(pieces_.size() <= most);
  const auto state_of = [&](std::size_t piece) {
    return state_at(shared_.data() + piece * state_size(head_dim), head_dim);
  };
  team_.run(pieces_.size(), [&](std::size_t piece, std::size_t) {
    attend(call, tiles_[pieces_[piece].tile], pieces_[piece].stretch, state_of(piece));
  });
  for (const Tile& tile : tiles_) {
    const AttendState total = state_of(tile.first_state);
    for (std::size_t stretch = 1; stretch < tile.stretches(); ++stretch) {
      ops_.combine(total, state_of(tile.first_state + stretch), tile.rows * tile.heads, head_dim);
    }
    finish(call, tile, total);
  }
}

}  // namespace troupe::kernels
