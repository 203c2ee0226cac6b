#pragma once

#include <cassert>

#include "kernels/cuda/weight_formats.cuh"

// Weights of any format as numbers, one after the other: for what needs them in another layout.

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

// The four numbers of a word of a quantised fragment.
template <DType kType, class Put>
__device__ __forceinline__ void put_quants(const GpuWeight& weight, const Group<kType>& group, unsigned unit, int step,
                                           int reg, std::uint32_t word, std::size_t row, std::size_t col,
                                           const Put& put) {
  const int side = reg % 2, block = static_cast<int>(unit) * 2 + step;
  float scale, min = 0;
  if constexpr (kType == DType::kInt8) {
    const std::size_t panels = (weight.rows + kGpuPanelOuts - 1) / kGpuPanelOuts;
    const std::byte* scales = weight.image + panels * gpu_panel_bytes(kType, weight.cols);
    scale = __ldg(reinterpret_cast<const float*>(scales) + row);
  } else if constexpr (Group<kType>::kHalves) {
    scale = group.scales[0].scale(block * 2 + reg / 2, side);
  } else if constexpr (Group<kType>::kMins) {
    scale = group.scales[0].scale(block, side);
    min = group.scales[0].min(block, side);
  } else {
    scale = group.scales[unit].scale(step, side);
  }
  float values[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    // Quants without an offset of their own are signed.
    const int stored = byte_of(word, i);
    const int quant = bits_of(kType) == 8 ? static_cast<std::int8_t>(stored) : stored - Group<kType>::kOffset;
    values[i] = scale * static_cast<float>(quant) - min;
  }
  put(row, col, values);
}

// Calls put(row, col, values) for the numbers of a panel's group that begins with unit `first`, the warp's lanes for
// some of them each: two or four that follow each other in a row. Beyond the weight's rows and columns, up to whole
// panels and units, they mean nothing. kF32's numbers come rounded to bf16.
template <DType kType, class Put>
__device__ __forceinline__ void unpack_group(const GpuWeight& weight, unsigned panel, unsigned first, const Put& put) {
  const unsigned lane = threadIdx.x % 32;
  const auto units = static_cast<unsigned>(gpu_units(kType, weight.cols));
  if (first >= units) return;
  Group<kType> group;
  group.load_group(weight.image + panel * gpu_panel_bytes(kType, weight.cols), first, units, lane);
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
          put_quants<kType>(weight, group, unit, step, reg, a[reg], row, col, put);
        } else if constexpr (kType == DType::kF16) {
          const float values[2] = {lower_half(a[reg]), upper_half(a[reg])};
          put(row, col, values);
        } else {
          const float values[2] = {__uint_as_float(a[reg] << 16), __uint_as_float(a[reg] & 0xffff0000)};
          put(row, col, values);
        }
      }
    }
  }
}

// Calls the function's operator() with the weight's format as template argument.
template <class Function>
void with_format(DType dtype, const Function& function) {
  switch (dtype) {
    case DType::kBF16: return function.template operator()<DType::kBF16>();
    case DType::kF16: return function.template operator()<DType::kF16>();
    case DType::kF32: return function.template operator()<DType::kF32>();
    case DType::kQ8_0: return function.template operator()<DType::kQ8_0>();
    case DType::kQ4_0:
    case DType::kInt4: return function.template operator()<DType::kQ4_0>();
    case DType::kQ5_0: return function.template operator()<DType::kQ5_0>();
    case DType::kQ4_K: return function.template operator()<DType::kQ4_K>();
    case DType::kQ5_K: return function.template operator()<DType::kQ5_K>();
    case DType::kQ6_K: return function.template operator()<DType::kQ6_K>();
    default: assert(dtype == DType::kInt8); return function.template operator()<DType::kInt8>();
  }
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
