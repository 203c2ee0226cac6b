#pragma once

#include <cassert>

#include "kernels/cuda/attention_lines.cuh"
#include "kernels/cuda/attention_tile.cuh"

// The kernel of paged_attention for one type of pages; each has a file of its own, because they take long to compile.
//
// A warp has 16 lines. Of many lines, as a rule it has all positions of a tile as well, so that probabilities stay in
// its registers. Else some warps share lines: for scores, each has some of the positions, for values, some of the
// elements. While a tile's keys are multiplied its values are on their way, and the next keys while values are.

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

constexpr unsigned kTileRow = kTilePositions + kPadding;

// What PagedAttentionArgs has for every item, of one width.
struct AttentionCall {
  PagedAttentionArgs args;
  const AttentionItem* items;  // (gridDim.x)
  float scale_log2;
  bool keys_are_aligned, values_are_aligned;
};

// How the warps of a block divide an item.
template <unsigned kDim, unsigned kLines>
struct AttentionWarps {
  // Warps that share lines. The values of 16 lines and 256 elements would fill a thread's registers.
  static constexpr unsigned kSharing = kLines == kMmaRows ? 4 : kDim > 128 ? 2 : 1;
  static constexpr unsigned kThreads = kLines / kMmaRows * kSharing * kWarpSize;
};

template <DType kPages, unsigned kDim, unsigned kLines>
struct AttentionShared {
  static constexpr unsigned kSharing = AttentionWarps<kDim, kLines>::kSharing;
  static constexpr unsigned kRow = kDim + kPadding;

  std::uint16_t keys[kDim * kTileRow];
  std::uint16_t values[kTilePositions * kRow];
  std::uint16_t queries[kLines * kRow];
  // What one warp has and those that share its lines need.
  std::uint16_t probabilities[kSharing > 1 ? kLines* kTileRow : 8];
  std::uint16_t value_weights[kSharing > 1 && has_page_scales(kPages) ? kLines* kTileRow : 8];
  float highest[kSharing][kLines];
  TilePlaces places[2];  // of this tile and the next
};

template <DType kPages, unsigned kDim, unsigned kLines>
__global__ void __launch_bounds__(AttentionWarps<kDim, kLines>::kThreads, kLines == kMmaRows ? 4 : 1)
    attend_items(AttentionCall call) {
  using Shared = AttentionShared<kPages, kDim, kLines>;
  using Warps = AttentionWarps<kDim, kLines>;
  constexpr unsigned kSharing = Warps::kSharing, kThreads = Warps::kThreads;
  constexpr unsigned kScorePairs = kTilePositions / 16 / kSharing;  // pairs of 8 positions of a warp
  constexpr unsigned kValuePairs = kDim / 16 / kSharing;            // pairs of 8 elements of a warp
  constexpr unsigned kSteps = kDim / kMmaDepth;
  constexpr bool kHoldsQueries = kDim <= 128;  // in registers
  TROUPE_DYNAMIC_SHARED(Shared, shared);

  const AttentionItem item = call.items[blockIdx.x];
  if (item.rows == 0) return;
  const AttentionWork& work = call.args.work;
  const PagedKv& kv = call.args.kv;
  const auto head_dim = static_cast<unsigned>(kv.head_dim);
  const BlockLines<kLines> lines(item, work.shape);
  const unsigned end = item.end_position;
  const std::uint32_t* const block_table = work.block_tables + item.table_start;

  const unsigned warp = threadIdx.x / kWarpSize, lane = threadIdx.x % kWarpSize;
  const unsigned group = lane / 4, member = lane % 4;
  const unsigned share = warp % kSharing;
  const unsigned first_line = warp / kSharing * kMmaRows;
  const unsigned first_score = share * kScorePairs * 16;  // position within the tile
  const unsigned first_value = share * kValuePairs * 16;

  // What this thread's lines see: [begin, end).
  unsigned begins[kOwnLines], ends[kOwnLines];
#pragma unroll
  for (unsigned i = 0; i < kOwnLines; ++i) {
    const auto window = static_cast<unsigned>(work.shape.sliding_window);
    ends[i] = lines.end_of(item, first_line + group + 8 * i);
    begins[i] = window != 0 && ends[i] > window ? ends[i] - window : 0;
  }

  find_places<kPages>(shared->places[item.first_position / kTilePositions % 2], kv, block_table, lines.kv_head,
                      item.first_position, end);
  for (unsigned i = threadIdx.x; i < kLines * kDim / 2; i += kThreads) {
    const unsigned line = i / (kDim / 2), dim = i % (kDim / 2) * 2;
    const float* const from = lines.query_of(item, work, line) + dim;
    const float x = line < lines.lines && dim < head_dim ? from[0] : 0;
    const float y = line < lines.lines && dim + 1 < head_dim ? from[1] : 0;
    const std::uint32_t pair = round_pair<kPages>(x, y);
    memcpy(shared->queries + line * Shared::kRow + dim, &pair, sizeof pair);
  }
  __syncthreads();
  std::uint32_t queries[kHoldsQueries ? kSteps : 1][4];
  if constexpr (kHoldsQueries) {
#pragma unroll
    for (unsigned step = 0; step < kSteps; ++step) {
      load_lines(queries[step], shared->queries + first_line * Shared::kRow + step * kMmaDepth, Shared::kRow);
    }
  }
  load_keys<kPages, kDim, kThreads>(shared->keys, shared->places[item.first_position / kTilePositions % 2], kv,
                                    item.first_position, end, call.keys_are_aligned);
  cp_async_commit();

  LineState<kValuePairs> state;
  const std::uint32_t one_pair = round_pair<kPages>(1, 1);
  const std::uint32_t ones[2] = {one_pair, one_pair};

#pragma unroll 1
  for (unsigned stretch = item.first_position, stretch_end = 0; stretch < end; stretch = stretch_end) {
    stretch_end = end_of_stretch(stretch, end);
    state.begin_stretch();
#pragma unroll 1
    for (unsigned first = stretch; first < stretch_end; first += kTilePositions) {
      const TilePlaces& places = shared->places[first / kTilePositions % 2];
      TilePlaces& next_places = shared->places[(first / kTilePositions + 1) % 2];
      const unsigned next = first + kTilePositions;
      cp_async_wait<0>();
      __syncthreads();  // the keys are there, and nobody needs the last tile's values any more
      load_values<kPages, kDim, kThreads>(shared->values, places, kv, first, end, call.values_are_aligned);
      cp_async_commit();
      if (next < end) find_places<kPages>(next_places, kv, block_table, lines.kv_head, next, end);

      float scores[kScorePairs][2][4] = {};
#pragma unroll
      for (unsigned step = 0; step < kSteps; ++step) {
        if (step * kMmaDepth < head_dim) {
          std::uint32_t a[4];
          if constexpr (!kHoldsQueries) {
            load_lines(a, shared->queries + first_line * Shared::kRow + step * kMmaDepth, Shared::kRow);
          }
#pragma unroll
          for (unsigned pair = 0; pair < kScorePairs; ++pair) {
            std::uint32_t b[2][2];
            load_operands(b, shared->keys + step * kMmaDepth * kTileRow + first_score + pair * 16, kTileRow);
            multiply_tiles<kPages>(scores[pair][0], kHoldsQueries ? queries[step] : a, b[0]);
            multiply_tiles<kPages>(scores[pair][1], kHoldsQueries ? queries[step] : a, b[1]);
          }
        }
      }

      float tile_highest[kOwnLines] = {minus_infinity(), minus_infinity()};
#pragma unroll
      for (unsigned pair = 0; pair < kScorePairs; ++pair) {
#pragma unroll
        for (unsigned half = 0; half < 2; ++half) {
#pragma unroll
          for (unsigned i = 0; i < 4; ++i) {
            const unsigned index = first_score + pair * 16 + half * 8 + member * 2 + i % 2;
            float& score = scores[pair][half][i];
            if constexpr (has_page_scales(kPages)) score = __fmul_rn(score, places.key_scale[index]);
            const bool is_seen = first + index >= begins[i / 2] && first + index < ends[i / 2];
            score = is_seen ? __fmul_rn(score, call.scale_log2) : minus_infinity();
            tile_highest[i / 2] = fmaxf(tile_highest[i / 2], score);
          }
        }
      }
      highest_of_lines(tile_highest, shared->highest, share, first_line);
      float references[kOwnLines];
      state.raise(tile_highest, references);

      // Probabilities as the left operands of the products with values: of each pair of 8 positions, 16 x 16.
      std::uint32_t weights[kScorePairs][4], value_weights[has_page_scales(kPages) ? kScorePairs : 1][4];
#pragma unroll
      for (unsigned pair = 0; pair < kScorePairs; ++pair) {
#pragma unroll
        for (unsigned i = 0; i < 4; ++i) {  // of the operand: line i % 2, half i / 2
          const float x = exp2f(scores[pair][i / 2][i % 2 * 2] - references[i % 2]);
          const float y = exp2f(scores[pair][i / 2][i % 2 * 2 + 1] - references[i % 2]);
          weights[pair][i] = round_pair<kPages>(x, y);
          if constexpr (has_page_scales(kPages)) {
            const unsigned index = first_score + pair * 16 + i / 2 * 8 + member * 2;
            // What is not seen stays 0, whatever its scale.
            value_weights[pair][i] = round_pair<kPages>(x == 0 ? 0 : __fmul_rn(x, places.value_scale[index]),
                                                        y == 0 ? 0 : __fmul_rn(y, places.value_scale[index + 1]));
          }
        }
      }
      if constexpr (kSharing > 1) {
#pragma unroll
        for (unsigned pair = 0; pair < kScorePairs; ++pair) {
#pragma unroll
          for (unsigned i = 0; i < 4; ++i) {
            const unsigned at =
                (first_line + group + 8 * (i % 2)) * kTileRow + first_score + pair * 16 + i / 2 * 8 + member * 2;
            memcpy(shared->probabilities + at, &weights[pair][i], sizeof weights[pair][i]);
            if constexpr (has_page_scales(kPages)) {
              memcpy(shared->value_weights + at, &value_weights[pair][i], sizeof value_weights[pair][i]);
            }
          }
        }
      }

      cp_async_wait<0>();
      __syncthreads();  // the values are there, and nobody needs the keys any more
      if (next < end) {
        load_keys<kPages, kDim, kThreads>(shared->keys, next_places, kv, next, end, call.keys_are_aligned);
        cp_async_commit();
      }
#pragma unroll
      for (unsigned step = 0; step < kTilePositions / kMmaDepth; ++step) {
        std::uint32_t a[4], value_a[4];
        if constexpr (kSharing == 1) {
#pragma unroll
          for (unsigned i = 0; i < 4; ++i) {
            a[i] = weights[step][i];
            value_a[i] = has_page_scales(kPages) ? value_weights[has_page_scales(kPages) ? step : 0][i] : a[i];
          }
        } else {
          load_lines(a, shared->probabilities + first_line * kTileRow + step * kMmaDepth, kTileRow);
          if constexpr (has_page_scales(kPages)) {
            load_lines(value_a, shared->value_weights + first_line * kTileRow + step * kMmaDepth, kTileRow);
          } else {
#pragma unroll
            for (unsigned i = 0; i < 4; ++i) value_a[i] = a[i];
          }
        }
        multiply_tiles<kPages>(state.sums, a, ones);
#pragma unroll
        for (unsigned pair = 0; pair < kValuePairs; ++pair) {
          if (first_value + pair * 16 < head_dim) {
            std::uint32_t b[2][2];
            load_operands(b, shared->values + step * kMmaDepth * Shared::kRow + first_value + pair * 16, Shared::kRow);
            multiply_tiles<kPages>(state.values[pair][0], value_a, b[0]);
            multiply_tiles<kPages>(state.values[pair][1], value_a, b[1]);
          }
        }
      }
    }
    const bool is_first = stretch == item.first_position, is_last = stretch_end == end;
    state.end_stretch(is_first, is_last, head_dim, first_value,
                      [&](unsigned i) { return lines.place_of(item, work, first_line + group + 8 * i, head_dim); });
  }
}

template <DType kPages, unsigned kDim, unsigned kLines>
void launch_items(Stream stream, const PagedAttentionArgs& args, std::span<const AttentionItem> items) {
  using Shared = AttentionShared<kPages, kDim, kLines>;
  static_assert(sizeof(Shared) <= (kDim > 128 && kLines == 64 ? kServerSharedBytes : kLeastSharedBytes));
  if (items.empty()) return;
  const PagedKv& kv = args.kv;
  const auto is_aligned = [](const void* memory) { return reinterpret_cast<std::uintptr_t>(memory) % 16 == 0; };
  const AttentionShape& shape = args.work.shape;
  const AttentionCall call = {args, items.data(), scale_log2(shape), kv.block_size % kChunk == 0 && is_aligned(kv.keys),
                              kv.head_dim % kChunk == 0 && is_aligned(kv.values)};
  launch(stream, attention_grid(items, shape, kLines), AttentionWarps<kDim, kLines>::kThreads, sizeof(Shared),
         attend_items<kPages, kDim, kLines>, call);
}

template <DType kPages, unsigned kDim>
void launch_both(Stream stream, const PagedAttentionArgs& args) {
  const AttentionLists& lists = args.work.lists;
  if constexpr (kDim > 128) {
    if (lists.wide_lines == 32) launch_items<kPages, kDim, 32>(stream, args, lists.wide);
  } else {
    assert(lists.wide_lines == 64);
  }
  if (lists.wide_lines == 64) launch_items<kPages, kDim, 64>(stream, args, lists.wide);
  launch_items<kPages, kDim, 16>(stream, args, lists.narrow);
}

template <DType kPages>
void attend_pages(Stream stream, const PagedAttentionArgs& args) {
  if (args.kv.head_dim <= 64) {
    launch_both<kPages, 64>(stream, args);
  } else if (args.kv.head_dim <= 128) {
    launch_both<kPages, 128>(stream, args);
  } else {
    launch_both<kPages, 256>(stream, args);
  }
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
