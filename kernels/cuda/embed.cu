#include "kernels/cuda/embed.h"

#include "kernels/cuda/element.cuh"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kThreads = 256;

// A block a row.
__global__ void embed_kernel(EmbedArgs args) {
  const std::uint32_t token = args.tokens[blockIdx.x];
  const bool held = token >= args.first_row && token - args.first_row < args.table.rows;
  const std::size_t first = held ? (token - args.first_row) * args.table.row_stride : 0;
  float* out = args.out.data + blockIdx.x * args.out.row_stride;
  for (std::size_t col = threadIdx.x; col < args.out.cols; col += blockDim.x) {
    out[col] = held ? load_element(args.table.data, args.table.dtype, first + col) : 0;
  }
}

}  // namespace

void embed(Stream stream, const EmbedArgs& args) {
  if (args.out.rows == 0) return;
  launch(stream, Grid(static_cast<unsigned>(args.out.rows)), Block(kThreads), 0, embed_kernel, args);
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
