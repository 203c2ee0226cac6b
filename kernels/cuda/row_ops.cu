#include "kernels/cuda/row_ops.h"

#include "kernels/cuda/simt.h"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kThreads = 256;

// A block a row: neighbouring threads read and write neighbouring elements.
__global__ void gather_rows_kernel(GatherRowsArgs args) {
  const float* from = args.in + args.indices[blockIdx.x] * args.in_stride;
  float* to = args.out + blockIdx.x * args.out_stride;
  for (std::size_t col = threadIdx.x; col < args.cols; col += blockDim.x) to[col] = from[col];
}

}  // namespace

void gather_rows(Stream stream, const GatherRowsArgs& args) {
  if (args.rows == 0) return;
  launch(stream, Grid(static_cast<unsigned>(args.rows)), Block(kThreads), 0, gather_rows_kernel, args);
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
