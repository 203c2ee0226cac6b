#include "kernels/cuda/bf16_rows.h"

#include <cassert>

#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/weight_formats.cuh"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kWarps = kThreads / 32;

__device__ __forceinline__ void store(const UnpackCall& call, std::size_t row, std::size_t col, float value) {
  if (row < call.weight.rows && col < call.weight.cols) {
    call.out[row * call.out_stride + col] = __bfloat16_as_ushort(__float2bfloat16_rn(value));
  }
}

// The four numbers of a word of a quantised fragment.
template <DType kType>
__device__ __forceinline__ void store_quants(const UnpackCall& call, const Group<kType>& group, unsigned unit, int step,
                                             int reg, std::uint32_t word, std::size_t row, std::size_t col) {
  const int side = reg % 2, block = static_cast<int>(unit) * 2 + step;
  float scale, min = 0;
  if constexpr (kType == DType::kInt8) {
    const std::size_t panels = (call.weight.rows + kGpuPanelOuts - 1) / kGpuPanelOuts;
    const std::byte* scales = call.weight.image + panels * gpu_panel_bytes(kType, call.weight.cols);
    scale = __ldg(reinterpret_cast<const float*>(scales) + row);
  } else if constexpr (Group<kType>::kHalves) {
    scale = group.scales[0].scale(block * 2 + reg / 2, side);
  } else if constexpr (Group<kType>::kMins) {
    scale = group.scales[0].scale(block, side);
    min = group.scales[0].min(block, side);
  } else {
    scale = group.scales[unit].scale(step, side);
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // Quants without an offset of their own are signed.
    const int stored = byte_of(word, i);
    const int quant = bits_of(kType) == 8 ? static_cast<std::int8_t>(stored) : stored - Group<kType>::kOffset;
    store(call, row, col + i, scale * static_cast<float>(quant) - min);
  }
}

// A warp takes a group of a panel. grid: (groups / kWarps, panels)
template <DType kType>
__global__ void __launch_bounds__(kThreads) unpack_groups(UnpackCall call) {
  const unsigned lane = threadIdx.x % 32, panel = blockIdx.y;
  const auto units = static_cast<unsigned>(gpu_units(kType, call.weight.cols));
  const unsigned first = (blockIdx.x * kWarps + threadIdx.x / 32) * Group<kType>::kUnits;
  if (first >= units) return;
  Group<kType> group;
  group.load_group(call.weight.image + panel * gpu_panel_bytes(kType, call.weight.cols), first, units, lane);
  constexpr unsigned kWordInputs = Group<kType>::kIsFloat ? 2 : 4;
#pragma unroll
  for (unsigned unit = 0; unit < Group<kType>::kUnits; ++unit) {
    if (first + unit >= units) break;
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      std::uint32_t a[4];
      group.quants[unit * Group<kType>::kParts].fragment(step, a);
#pragma unroll
      for (int reg = 0; reg < 4; ++reg) {
        const std::size_t row = panel * kGpuPanelOuts + lane / 4 + reg % 2 * 8;
        const unsigned word = (first + unit) * 16 + step * 8 + reg / 2 * 4 + lane % 4;
        const std::size_t col = std::size_t{word} * kWordInputs;
        if constexpr (!Group<kType>::kIsFloat) {
          store_quants<kType>(call, group, unit, step, reg, a[reg], row, col);
        } else if constexpr (kType == DType::kF16) {
          store(call, row, col, lower_half(a[reg]));
          store(call, row, col + 1, upper_half(a[reg]));
        } else {
          store(call, row, col, __uint_as_float(a[reg] << 16));
          store(call, row, col + 1, __uint_as_float(a[reg] & 0xffff0000));
        }
      }
    }
  }
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

template <DType kType>
void launch_unpack(Stream stream, const UnpackCall& call) {
  const unsigned groups = divide_up(gpu_units(kType, call.weight.cols), Group<kType>::kUnits);
  launch(stream, {divide_up(groups, kWarps), divide_up(call.weight.rows, kGpuPanelOuts)}, {kThreads}, 0,
         unpack_groups<kType>, call);
}

}  // namespace

void unpack_weight(Stream stream, const UnpackCall& call) {
  switch (call.weight.dtype) {
    case DType::kBF16: return launch_unpack<DType::kBF16>(stream, call);
    case DType::kF16: return launch_unpack<DType::kF16>(stream, call);
    case DType::kF32: return launch_unpack<DType::kF32>(stream, call);
    case DType::kQ8_0: return launch_unpack<DType::kQ8_0>(stream, call);
    case DType::kQ4_0:
    case DType::kInt4: return launch_unpack<DType::kQ4_0>(stream, call);
    case DType::kQ5_0: return launch_unpack<DType::kQ5_0>(stream, call);
    case DType::kQ4_K: return launch_unpack<DType::kQ4_K>(stream, call);
    case DType::kQ5_K: return launch_unpack<DType::kQ5_K>(stream, call);
    case DType::kQ6_K: return launch_unpack<DType::kQ6_K>(stream, call);
    default: assert(call.weight.dtype == DType::kInt8); return launch_unpack<DType::kInt8>(stream, call);
  }
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
