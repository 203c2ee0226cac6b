#include "kernels/cuda/row_ops.h"

#include "kernels/cuda/simt.h"
#include "kernels/kernels.h"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kThreads = 256;

// Blocks: (rows, parts of a row). Neighbouring threads read and write neighbouring elements.
__global__ void gather_rows_kernel(GatherRowsArgs args) {
  const std::size_t row = args.indices == nullptr ? blockIdx.x : args.indices[blockIdx.x];
  const float* from = args.in + row * args.in_stride;
  float* to = args.out + blockIdx.x * args.out_stride;
  const std::size_t step = std::size_t{gridDim.y} * blockDim.x;
  for (std::size_t col = std::size_t{blockIdx.y} * blockDim.x + threadIdx.x; col < args.cols; col += step) {
    to[col] = from[col];
  }
}

__global__ void take_tokens_kernel(TakeTokensArgs args) {
  const std::size_t row = std::size_t{blockIdx.x} * kThreads + threadIdx.x;
  if (row >= args.rows) return;
  const std::uint32_t source = args.sources[row];
  if (source == kTokenIsKnown) return;
  const std::uint32_t token = source < args.drawn_rows ? args.drawn[source] : kNoToken;
  args.tokens[row] = token == kNoToken ? 0 : token;
}

// A thread an element, and further ones where the grid has fewer.
__global__ void sum_rows_kernel(SumRowsArgs args) {
  const std::size_t step = std::size_t{gridDim.x} * blockDim.x;
  for (std::size_t col = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x; col < args.cols; col += step) {
    float sum = args.in[col];
    for (std::size_t row = 1; row < args.rows; ++row) sum += args.in[row * args.cols + col];
    args.out[col] = sum;
  }
}

}  // namespace

void take_tokens(Stream stream, const TakeTokensArgs& args) {
  if (args.rows == 0) return;
  const auto blocks = static_cast<unsigned>((args.rows + kThreads - 1) / kThreads);
  launch(stream, Grid(blocks), Block(kThreads), 0, take_tokens_kernel, args);
}

void gather_rows(Stream stream, const GatherRowsArgs& args) {
  constexpr std::size_t kMostParts = 64;  // a row of logits has some 100,000 elements
  if (args.rows == 0 || args.cols == 0) return;
  const std::size_t parts = (args.cols + 4 * kThreads - 1) / (4 * kThreads);
  launch(stream, {static_cast<unsigned>(args.rows), static_cast<unsigned>(parts < kMostParts ? parts : kMostParts)},
         Block(kThreads), 0, gather_rows_kernel, args);
}

void sum_rows(Stream stream, const SumRowsArgs& args) {
  constexpr std::size_t kMostBlocks = 4096;  // enough to fill any GPU
  if (args.cols == 0) return;
  const std::size_t blocks = (args.cols + kThreads - 1) / kThreads;
  launch(stream, Grid(static_cast<unsigned>(blocks < kMostBlocks ? blocks : kMostBlocks)), Block(kThreads), 0,
         sum_rows_kernel, args);
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
