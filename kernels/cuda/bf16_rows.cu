#include "kernels/cuda/bf16_rows.h"

#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/unpack.cuh"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kWarps = kThreads / 32;

// A warp takes a group of a panel. grid: (groups / kWarps, panels)
template <DType kType>
__global__ void __launch_bounds__(kThreads) unpack_groups(UnpackCall call) {
  const unsigned first = (blockIdx.x * kWarps + threadIdx.x / 32) * Group<kType>::kUnits;
  unpack_group<kType>(call.weight, blockIdx.y, first, [&](std::size_t row, std::size_t col, const auto& values) {
#pragma unroll
    for (unsigned i = 0; i < sizeof values / sizeof values[0]; ++i) {
      if (row < call.weight.rows && col + i < call.weight.cols) {
        call.out[row * call.out_stride + col + i] = __bfloat16_as_ushort(__float2bfloat16_rn(values[i]));
      }
    }
  });
}

__global__ void __launch_bounds__(kThreads) round_values(RoundCall call) {
  const unsigned col = blockIdx.x * kThreads + threadIdx.x;
  if (col >= call.cols) return;
  const float value = __ldg(call.in + blockIdx.y * call.in_stride + col);
  call.out[blockIdx.y * call.out_stride + col] = __bfloat16_as_ushort(__float2bfloat16_rn(value));
}

__global__ void __launch_bounds__(kThreads) finish_values(EpilogueCall call) {
  const unsigned col = blockIdx.x * kThreads + threadIdx.x;
  if (col >= call.cols) return;
  finish_value(call.epilogue, __ldg(call.product + blockIdx.y * call.cols + col),
               call.out + blockIdx.y * call.out_stride + col);
}

unsigned divide_up(std::size_t value, std::size_t divisor) {
  return static_cast<unsigned>((value + divisor - 1) / divisor);
}

}  // namespace

void unpack_weight(Stream stream, const UnpackCall& call) {
  with_format(call.weight.dtype, [&]<DType kType>() {
    const unsigned groups = divide_up(gpu_units(kType, call.weight.cols), Group<kType>::kUnits);
    launch(stream, {divide_up(groups, kWarps), divide_up(call.weight.rows, kGpuPanelOuts)}, {kThreads}, 0,
           unpack_groups<kType>, call);
  });
}

void round_rows(Stream stream, const RoundCall& call) {
  if (call.rows == 0) return;
  launch(stream, {divide_up(call.cols, kThreads), static_cast<unsigned>(call.rows)}, {kThreads}, 0, round_values, call);
}

void finish_product(Stream stream, const EpilogueCall& call) {
  if (call.rows == 0) return;
  launch(stream, {divide_up(call.cols, kThreads), static_cast<unsigned>(call.rows)}, {kThreads}, 0, finish_values,
         call);
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
