#include "kernels/cuda/attention_pieces.h"

#include <cassert>

#include "kernels/cuda/softmax_state.cuh"
#include "kernels/cuda/warp.cuh"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kWarps = 4;

// Blocks: (merges, groups of kWarps heads); a warp for a head of a row.
__global__ void __launch_bounds__(kWarps* kWarpSize) merge_heads(AttentionWork work, unsigned value_dim) {
  const AttentionMerge merge = work.lists.merges.data()[blockIdx.x];
  const auto num_heads = static_cast<unsigned>(work.shape.num_heads);
  const std::size_t head_floats = value_dim + 2;
  const std::size_t next_stretch = std::size_t{merge.rows} * num_heads * head_floats;
  const unsigned head = blockIdx.y * kWarps + threadIdx.x / kWarpSize;
  if (head >= num_heads) return;

  for (unsigned row = 0; row < merge.rows; ++row) {
    const float* const first = work.pieces + ((std::size_t{merge.first_piece} + row) * num_heads + head) * head_floats;
    float* const out = work.out.data + (merge.first_row + row) * work.out.row_stride + std::size_t{head} * value_dim;
    for (unsigned dim = threadIdx.x % kWarpSize; dim < value_dim; dim += kWarpSize) {
      float value = 0, sum = 0, highest = minus_infinity();
      const float* piece = first;
      for (unsigned i = 0; i < merge.stretches; ++i, piece += next_stretch) {
        const StateWeights state = weigh_states(highest, piece[value_dim]);
        value = add_states(state, value, piece[dim]);
        sum = add_states(state, sum, piece[value_dim + 1]);
        highest = state.highest;
      }
      out[dim] = finished(value, sum);
    }
  }
}

}  // namespace

void merge_pieces(Stream stream, const AttentionWork& work, std::size_t value_dim) {
  const std::size_t num_heads = work.shape.num_heads, num_merges = work.lists.merges.size();
  assert(work.out.cols == num_heads * value_dim);
  if (num_merges == 0) return;
  const auto groups = static_cast<unsigned>((num_heads + kWarps - 1) / kWarps);
  launch(stream, {static_cast<unsigned>(num_merges), groups}, kWarps * kWarpSize, 0, merge_heads, work,
         static_cast<unsigned>(value_dim));
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
