#include "kernels/cuda/row_ops.h"

#include "kernels/cuda/simt.h"
#include "kernels/kernels.h"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kThreads = 256;

// A block a row: neighbouring threads read and write neighbouring elements.
__global__ void gather_rows_kernel(GatherRowsArgs args) {
  const float* from = args.in + args.indices[blockIdx.x] * args.in_stride;
  float* to = args.out + blockIdx.x * args.out_stride;
  for (std::size_t col = threadIdx.x; col < args.cols; col += blockDim.x) to[col] = from[col];
}

__global__ void take_tokens_kernel(TakeTokensArgs args) {
  const std::size_t row = std::size_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= args.rows) return;
  const std::uint32_t source = args.sources[row];
  if (source == kTokenIsKnown) return;
  const std::uint32_t token = source < args.drawn_rows ? args.drawn[source] : kNoToken;
  args.tokens[row] = token == kNoToken ? 0 : token;
}

}  // namespace

void take_tokens(Stream stream, const TakeTokensArgs& args) {
  if (args.rows == 0) return;
  const auto blocks = static_cast<unsigned>((args.rows + kThreads - 1) / kThreads);
  launch(stream, Grid(blocks), Block(kThreads), 0, take_tokens_kernel, args);
}

void gather_rows(Stream stream, const GatherRowsArgs& args) {
  if (args.rows == 0) return;
  launch(stream, Grid(static_cast<unsigned>(args.rows)), Block(kThreads), 0, gather_rows_kernel, args);
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
