#include "kernels/cuda/paged_attention.h"

#include <cassert>

#include "kernels/cuda/softmax_state.cuh"
#include "kernels/cuda/warp.cuh"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

// kernels/cuda/paged_attention.cuh, instantiated in a file for each type.
template <DType kPages>
void attend_pages(Stream stream, const PagedAttentionArgs& args);
extern template void attend_pages<DType::kF32>(Stream stream, const PagedAttentionArgs& args);
extern template void attend_pages<DType::kF16>(Stream stream, const PagedAttentionArgs& args);
extern template void attend_pages<DType::kBF16>(Stream stream, const PagedAttentionArgs& args);
extern template void attend_pages<DType::kI8>(Stream stream, const PagedAttentionArgs& args);
extern template void attend_pages<DType::kE4M3>(Stream stream, const PagedAttentionArgs& args);

namespace {

constexpr unsigned kMergeWarps = 4;

// Blocks: (merges, KV heads and their parts); a warp for a line.
__global__ void __launch_bounds__(kMergeWarps* kWarpSize) merge_pieces(PagedAttentionArgs args) {
  const AttentionMerge merge = args.merges[blockIdx.x];
  const auto head_dim = static_cast<unsigned>(args.kv.head_dim);
  const auto group_heads = static_cast<unsigned>(args.shape.num_heads / args.shape.num_kv_heads);
  const unsigned most_heads = min(group_heads, static_cast<unsigned>(kNarrowLines));
  const unsigned parts = (group_heads + most_heads - 1) / most_heads;
  const unsigned first_head = blockIdx.y % parts * most_heads;
  const unsigned heads = min(most_heads, group_heads - first_head);
  const unsigned head = blockIdx.y / parts * group_heads + first_head;
  const std::size_t next_piece = std::size_t{gridDim.y} * kNarrowLines * (head_dim + 2);

  for (unsigned line = threadIdx.x / kWarpSize; line < merge.rows * heads; line += kMergeWarps) {
    const float* const pieces =
        args.pieces + merge.first_piece * next_piece + (blockIdx.y * kNarrowLines + line) * (head_dim + 2);
    float* const out =
        args.out.data + (merge.first_row + line / heads) * args.out.row_stride + (head + line % heads) * head_dim;
    for (unsigned dim = threadIdx.x % kWarpSize; dim < head_dim; dim += kWarpSize) {
      float value = 0, sum = 0, highest = minus_infinity();
      const float* piece = pieces;
      for (unsigned i = 0; i < merge.pieces; ++i, piece += next_piece) {
        const StateWeights state = weigh_states(highest, piece[head_dim]);
        value = add_states(state, value, piece[dim]);
        sum = add_states(state, sum, piece[head_dim + 1]);
        highest = state.highest;
      }
      out[dim] = finished(value, sum);
    }
  }
}

}  // namespace

void paged_attention(Stream stream, const PagedAttentionArgs& args) {
  const AttentionShape& shape = args.shape;
  assert(args.queries.cols == shape.num_heads * shape.head_dim && args.out.cols == args.queries.cols);
  assert(args.kv.num_kv_heads == shape.num_kv_heads && args.kv.head_dim == shape.head_dim);
  assert(shape.num_heads % shape.num_kv_heads == 0 && shape.head_dim <= kMaxGpuHeadDim);
  switch (args.kv.dtype) {
    case DType::kF32: attend_pages<DType::kF32>(stream, args); break;
    case DType::kF16: attend_pages<DType::kF16>(stream, args); break;
    case DType::kBF16: attend_pages<DType::kBF16>(stream, args); break;
    case DType::kI8: attend_pages<DType::kI8>(stream, args); break;
    case DType::kE4M3: attend_pages<DType::kE4M3>(stream, args); break;
    default: assert(false);
  }
  if (args.num_merges == 0) return;
  const std::size_t group = shape.num_heads / shape.num_kv_heads;
  const std::size_t parts = (group + kNarrowLines - 1) / kNarrowLines;
  launch(stream, {static_cast<unsigned>(args.num_merges), static_cast<unsigned>(shape.num_kv_heads * parts)},
         kMergeWarps * kWarpSize, 0, merge_pieces, args);
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
