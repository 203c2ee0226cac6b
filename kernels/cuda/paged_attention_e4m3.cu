#include "kernels/cuda/paged_attention.cuh"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

template void attend_pages<DType::kE4M3>(Stream stream, const PagedAttentionArgs& args);

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
