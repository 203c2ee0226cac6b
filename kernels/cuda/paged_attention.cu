#include "kernels/cuda/paged_attention.h"

#include <cassert>

#include "kernels/cuda/gpu_list.h"
#include "kernels/cuda/simt.h"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

// kernels/cuda/paged_attention.cuh, instantiated in a file for each type.
template <DType kPages>
void attend_pages(Stream stream, const PagedAttentionArgs& args);
extern template void attend_pages<DType::kF32>(Stream stream, const PagedAttentionArgs& args);
extern template void attend_pages<DType::kF16>(Stream stream, const PagedAttentionArgs& args);
extern template void attend_pages<DType::kBF16>(Stream stream, const PagedAttentionArgs& args);
extern template void attend_pages<DType::kI8>(Stream stream, const PagedAttentionArgs& args);
extern template void attend_pages<DType::kE4M3>(Stream stream, const PagedAttentionArgs& args);

void paged_attention(Stream stream, const PagedAttentionArgs& args) {
  const AttentionShape& shape = args.work.shape;
  assert(args.work.queries.cols == shape.num_heads * shape.head_dim);
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
  merge_pieces(stream, args.work, shape.head_dim);
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
