#pragma once

#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/softmax_state.cuh"
#include "kernels/cuda/tensor_core.h"
#include "kernels/cuda/warp.cuh"

// What kernels of attention share: the lines of a block, and what a warp has of its 16 lines, operands for tensor cores
// and the state of a running softmax.

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

constexpr unsigned kMmaRows = 16;
constexpr unsigned kMmaDepth = 16;

// Lines of a thread: its group's in the upper and the lower half of the warp's 16.
constexpr unsigned kOwnLines = 2;

// Two 16 x 8 operands side by side, from 16 rows of shared memory `row_length` apart: b[0] of the first 8 columns, b[1]
// of the next.
__device__ __forceinline__ void load_operands(std::uint32_t (&b)[2][2], const std::uint16_t* from,
                                              unsigned row_length) {
  const unsigned lane = threadIdx.x % kWarpSize;
  std::uint32_t r[4];
  ldmatrix_x4_trans(r, from + lane % 16 * row_length + lane / 16 * 8);
  b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
}

// The 16 x 16 operand at `from`.
__device__ __forceinline__ void load_lines(std::uint32_t (&a)[4], const std::uint16_t* from, unsigned row_length) {
  const unsigned lane = threadIdx.x % kWarpSize;
  ldmatrix_x4(a, from + lane % 16 * row_length + lane / 16 * 8);
}

// The largest of a line's scores, from those of the four threads that have them.
__device__ __forceinline__ float highest_of_line(float highest) {
  highest = fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, 1));
  return fmaxf(highest, __shfl_xor_sync(kAllLanes, highest, 2));
}

// The largest of each own line's scores, from those of the kSharing warps that share the lines. by_warp: shared. Where
// there are several, the block comes together once.
template <unsigned kSharing, unsigned kLines>
__device__ __forceinline__ void highest_of_lines(float (&highest)[kOwnLines], float (&by_warp)[kSharing][kLines],
                                                 unsigned share, unsigned first_line) {
  const unsigned lane = threadIdx.x % kWarpSize, group = lane / 4, member = lane % 4;
#pragma unroll
  for (unsigned i = 0; i < kOwnLines; ++i) {
    highest[i] = highest_of_line(highest[i]);
    if constexpr (kSharing > 1) {
      if (member == 0) by_warp[share][first_line + group + 8 * i] = highest[i];
    }
  }
  if constexpr (kSharing > 1) {
    __syncthreads();
#pragma unroll
    for (unsigned i = 0; i < kOwnLines; ++i) {
#pragma unroll
      for (unsigned other = 0; other < kSharing; ++other) {
        highest[i] = fmaxf(highest[i], by_warp[other][first_line + group + 8 * i]);
      }
    }
  }
}

// Where a line's values go: to the pieces, or, once they are all there, to the result.
struct LinePlace {
  float* values;  // null: there is no such line
  bool is_piece;
};

// The lines of an item that a block has: its rows with as many heads of one KV head as the block's kMost lines have
// room for. Blocks: (items, attention_blocks).
template <unsigned kMost>
struct BlockLines {
  unsigned kv_head;
  unsigned first_head;  // of all
  unsigned heads;
  unsigned lines;

  __device__ __forceinline__ BlockLines(const AttentionItem& item, const AttentionShape& shape) {
    const auto group_heads = static_cast<unsigned>(shape.num_heads / shape.num_kv_heads);
    const unsigned most_heads = min(group_heads, kMost);
    const unsigned parts = (group_heads + most_heads - 1) / most_heads;
    const unsigned first = blockIdx.y % parts * most_heads;  // within the group
    kv_head = blockIdx.y / parts;
    first_head = kv_head * group_heads + first;
    heads = min(most_heads, group_heads - first);
    lines = item.rows * heads;
  }

  __device__ __forceinline__ unsigned row_of(unsigned line) const { return line / heads; }  // of the item
  __device__ __forceinline__ unsigned head_of(unsigned line) const { return first_head + line % heads; }

  // Behind the last position that a line sees; 0 where there is no such line.
  __device__ __forceinline__ unsigned end_of(const AttentionItem& item, unsigned line) const {
    return line < lines ? item.first_end + row_of(line) : 0;
  }

  // Its query. REQUIRES: there is such a line
  __device__ __forceinline__ const float* query_of(const AttentionItem& item, const AttentionWork& work,
                                                   unsigned line) const {
    return work.queries.data + (item.first_row + row_of(line)) * work.queries.row_stride +
           head_of(line) * work.shape.head_dim;
  }

  __device__ __forceinline__ LinePlace place_of(const AttentionItem& item, const AttentionWork& work, unsigned line,
                                                unsigned value_dim) const {
    if (line >= lines) return {nullptr, false};
    if (item.piece == AttentionItem::kWhole) {
      const std::size_t row = item.first_row + row_of(line);
      return {work.out.data + row * work.out.row_stride + head_of(line) * value_dim, false};
    }
    const std::size_t piece = (std::size_t{item.piece} + row_of(line)) * work.shape.num_heads + head_of(line);
    return {work.pieces + piece * (value_dim + 2), true};
  }
};

// The blocks that go through items, with `lines` lines each.
inline Grid attention_grid(std::span<const AttentionItem> items, const AttentionShape& shape, std::size_t lines) {
  return {static_cast<unsigned>(items.size()), static_cast<unsigned>(attention_blocks(shape, lines))};
}

// Scores become powers of 2.
inline float scale_log2(const AttentionShape& shape) {
  constexpr float kLog2E = 1.44269504088896340736f;
  return shape.scale * kLog2E;
}

// Behind the last position of the stretch that begins at `begin`, or in which an item begins there.
__device__ __forceinline__ unsigned end_of_stretch(unsigned begin, unsigned end) {
  constexpr unsigned kStretch = kAttentionStretch;
  return min(end, (begin / kStretch + 1) * kStretch);
}

// The state of a stretch, and what the stretches before it came to (their values lie in the result). kPairs: pairs of 8
// values of a warp. Stretches are an outer loop around that over tiles: where one loop does both, compilers keep the
// values twice, before and after they are set to zero.
template <unsigned kPairs>
struct LineState {
  float values[kPairs][2][4];
  float sums[4];  // as a product with ones: [0] of the upper line, [2] of the lower
  float highest[kOwnLines];
  float total_sums[kOwnLines] = {};
  float total_highest[kOwnLines] = {minus_infinity(), minus_infinity()};

  __device__ __forceinline__ void begin_stretch() {
#pragma unroll
    for (unsigned i = 0; i < kOwnLines; ++i) highest[i] = minus_infinity();
#pragma unroll
    for (unsigned pair = 0; pair < kPairs; ++pair) {
#pragma unroll
      for (unsigned i = 0; i < 8; ++i) values[pair][i / 4][i % 4] = 0;
    }
#pragma unroll
    for (unsigned i = 0; i < 4; ++i) sums[i] = 0;
  }

  // Takes a tile's highest scores in. references: what the tile's scores are to be taken relative to.
  __device__ __forceinline__ void raise(const float (&tile_highest)[kOwnLines], float (&references)[kOwnLines]) {
    float factors[kOwnLines];
#pragma unroll
    for (unsigned i = 0; i < kOwnLines; ++i) {
      const float before = highest[i];
      highest[i] = fmaxf(before, tile_highest[i]);
      references[i] = reference_score(highest[i]);
      factors[i] = exp2f(before - references[i]);
      sums[2 * i] = __fmul_rn(sums[2 * i], factors[i]);
      sums[2 * i + 1] = __fmul_rn(sums[2 * i + 1], factors[i]);
    }
#pragma unroll
    for (unsigned pair = 0; pair < kPairs; ++pair) {
#pragma unroll
      for (unsigned i = 0; i < 8; ++i) {
        values[pair][i / 4][i % 4] = __fmul_rn(values[pair][i / 4][i % 4], factors[i % 4 / 2]);
      }
    }
  }

  // The end of a stretch, the item's first or last or neither. value_dim: of the line's values; this warp has those
  // from first_value on. place(i): of own line i.
  template <class Place>
  __device__ __forceinline__ void end_stretch(bool is_first, bool is_last, unsigned value_dim, unsigned first_value,
                                              const Place& place) {
    const unsigned member = threadIdx.x % kWarpSize % 4;
#pragma unroll
    for (unsigned i = 0; i < kOwnLines; ++i) {
      const StateWeights state = weigh_states(total_highest[i], highest[i]);
      const float sum = add_states(state, total_sums[i], sums[2 * i]);
      total_highest[i] = state.highest;
      total_sums[i] = sum;
      const auto [to, is_piece] = place(i);
      if (to != nullptr) {
#pragma unroll
        for (unsigned j = 0; j < kPairs * 4; ++j) {
          const unsigned dim = first_value + j / 2 * 8 + member * 2 + j % 2;
          if (dim < value_dim) {
            float value = values[j / 4][j / 2 % 2][i * 2 + j % 2];
            if (!is_piece) {
              value = add_states(state, is_first ? 0 : to[dim], value);
              if (is_last) value = finished(value, sum);
            }
            to[dim] = value;
          }
        }
        if (is_piece && first_value == 0 && member == 0) {
          to[value_dim] = highest[i];
          to[value_dim + 1] = sums[2 * i];
        }
      }
    }
  }
};

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
