#include "kernels/cuda/row_norm.h"

#include "kernels/cuda/block_sum.cuh"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kThreads = 256;

__global__ void __launch_bounds__(kThreads) row_norm_kernel(RowNormArgs args) {
  __shared__ float shared[kThreads / kWarpLanes];
  const float* addend = args.addend == nullptr ? nullptr : args.addend + blockIdx.x * args.addend_stride;
  float* sum = args.sum + blockIdx.x * args.sum_stride;
  float squares = 0;
  for (std::size_t col = threadIdx.x; col < args.cols; col += kThreads) {
    float value = sum[col];
    if (addend != nullptr) {
      value += addend[col];
      sum[col] = value;
    }
    squares += value * value;
  }
  if (args.out == nullptr) return;
  const float mean = block_sum(squares, shared) / static_cast<float>(args.cols);
  const float factor = 1 / sqrtf(mean + args.eps);
  float* out = args.out + blockIdx.x * args.out_stride;
  for (std::size_t col = threadIdx.x; col < args.cols; col += kThreads) out[col] = sum[col] * factor * args.weight[col];
}

}  // namespace

void row_norm(Stream stream, const RowNormArgs& args) {
  if (args.rows == 0) return;
  launch(stream, Grid(static_cast<unsigned>(args.rows)), Block(kThreads), 0, row_norm_kernel, args);
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
