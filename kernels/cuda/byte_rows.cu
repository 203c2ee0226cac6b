#include "kernels/cuda/byte_rows.h"

#include <cassert>

#include "kernels/cuda/block_sums.cuh"
#include "kernels/cuda/epilogue.cuh"
#include "kernels/cuda/quantise.cuh"
#include "kernels/cuda/unpack.cuh"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kWarps = kThreads / 32;
constexpr float kLargestE4M3 = 448;

__device__ __forceinline__ std::uint32_t e4m3_of(float value) {
  return __nv_cvt_float_to_fp8(value, __NV_SATFINITE, __NV_E4M3);
}

// One block of threads a row.
template <DType kTo>
__global__ void __launch_bounds__(kThreads) quantise_row_bytes(QuantiseRowsCall call) {
  const float* const in = call.in + blockIdx.x * call.in_stride;
  std::uint8_t* const out = call.out + blockIdx.x * call.stride;
  const auto cols = static_cast<unsigned>(call.cols), stride = static_cast<unsigned>(call.stride);
  float values[4];
  float largest = 0;
  for (unsigned first = threadIdx.x * 4; first < cols; first += kThreads * 4) {
    load_four(in, first, cols, values);
    largest = fmaxf(largest, largest_of(values));
  }
  largest = max_block<kThreads>(largest);
  const float limit = kTo == DType::kI8 ? 127.0f : kLargestE4M3;
  const float steps = steps_a_unit(largest, limit);
  for (unsigned first = threadIdx.x * 4; first < stride; first += kThreads * 4) {
    load_four(in, first, cols, values);
    std::uint32_t word = 0;
    if constexpr (kTo == DType::kI8) {
      int sum;
      word = quantise(values, steps, sum);
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i) word |= e4m3_of(values[i] * steps) << (8 * i);
    }
    *reinterpret_cast<std::uint32_t*>(out + first) = word;
  }
  if (threadIdx.x == 0) call.scales[blockIdx.x] = steps == 0 ? 0 : largest / limit;
}

// A warp takes a group of a panel. grid: (groups / kWarps, panels)
__global__ void __launch_bounds__(kThreads) unpack_int8(UnpackBytesCall call) {
  using Int8 = Group<DType::kInt8>;
  const unsigned lane = threadIdx.x % 32, panel = blockIdx.y;
  const auto units = static_cast<unsigned>(gpu_units(DType::kInt8, call.weight.cols));
  const unsigned first = (blockIdx.x * kWarps + threadIdx.x / 32) * Int8::kUnits;
  if (first >= units) return;
  Int8 group;
  group.load_group(call.weight.image + panel * gpu_panel_bytes(DType::kInt8, call.weight.cols), first, units, lane);
#pragma unroll
  for (unsigned unit = 0; unit < Int8::kUnits; ++unit) {
    if (first + unit >= units) break;
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      std::uint32_t a[4];
      group.quants[unit].fragment(step, a);
#pragma unroll
      for (int reg = 0; reg < 4; ++reg) {
        const std::size_t row = panel * kGpuPanelOuts + lane / 4 + reg % 2 * 8;
        const std::size_t col = std::size_t{(first + unit) * 16 + step * 8 + reg / 2 * 4 + lane % 4} * 4;
        if (col < call.stride) *reinterpret_cast<std::uint32_t*>(call.out + row * call.stride + col) = a[reg];
      }
    }
  }
}

// One block of threads a panel, which it goes through twice. The 2: left alone, compilers spill rather than have less
// than four blocks a multiprocessor.
template <DType kType>
__global__ void __launch_bounds__(kThreads, 2) unpack_e4m3(UnpackBytesCall call) {
  __shared__ unsigned largest_bits[kGpuPanelOuts];
  const unsigned panel = blockIdx.x, warp = threadIdx.x / 32;
  const auto units = static_cast<unsigned>(gpu_units(kType, call.weight.cols));
  constexpr unsigned kUnits = Group<kType>::kUnits;
  if (threadIdx.x < kGpuPanelOuts) largest_bits[threadIdx.x] = 0;
  __syncthreads();

  // A lane's rows are one of the first eight and the one eight further.
  float lower = 0, upper = 0;
  for (unsigned first = warp * kUnits; first < units; first += kWarps * kUnits) {
    unpack_group<kType>(call.weight, panel, first, [&](std::size_t row, std::size_t col, const auto& values) {
      float largest = 0;
#pragma unroll
      for (unsigned i = 0; i < sizeof values / sizeof values[0]; ++i) {
        if (row < call.weight.rows && col + i < call.weight.cols) largest = fmaxf(largest, fabsf(values[i]));
      }
      if (row % kGpuPanelOuts < 8) {
        lower = fmaxf(lower, largest);
      } else {
        upper = fmaxf(upper, largest);
      }
    });
  }
  // Floats that are not negative are ordered as their bits.
  atomicMax(&largest_bits[threadIdx.x % 32 / 4], __float_as_uint(lower));
  atomicMax(&largest_bits[threadIdx.x % 32 / 4 + 8], __float_as_uint(upper));
  __syncthreads();

  for (unsigned first = warp * kUnits; first < units; first += kWarps * kUnits) {
    unpack_group<kType>(call.weight, panel, first, [&](std::size_t row, std::size_t col, const auto& values) {
      constexpr unsigned kCount = sizeof values / sizeof values[0];
      const float steps = steps_a_unit(__uint_as_float(largest_bits[row % kGpuPanelOuts]), kLargestE4M3);
      std::uint32_t word = 0;
#pragma unroll
      for (unsigned i = 0; i < kCount; ++i) {
        const bool is_there = row < call.weight.rows && col + i < call.weight.cols;
        word |= (is_there ? e4m3_of(values[i] * steps) : 0) << (8 * i);
      }
      if (col < call.stride) memcpy(call.out + row * call.stride + col, &word, kCount);
    });
  }
  if (threadIdx.x >= kGpuPanelOuts) return;
  const float largest = __uint_as_float(largest_bits[threadIdx.x]);
  call.scales[panel * kGpuPanelOuts + threadIdx.x] =
      steps_a_unit(largest, kLargestE4M3) == 0 ? 0 : largest / kLargestE4M3;
}

template <class Product>
__global__ void __launch_bounds__(kThreads) finish_products(FinishBytesCall call) {
  const unsigned out = blockIdx.x * kThreads + threadIdx.x, row = blockIdx.y;
  if (out >= call.outs) return;
  const Product product = __ldg(static_cast<const Product*>(call.product) + row * call.product_stride + out);
  const float scale = __ldg(call.weight_scales + out) * __ldg(call.in_scales + row);
  const float bias = call.bias != nullptr ? __ldg(call.bias + out) : 0.0f;
  finish_value(call.epilogue, fmaf(static_cast<float>(product), scale, bias), call.out + row * call.out_stride + out);
}

unsigned divide_up(std::size_t value, std::size_t divisor) {
  return static_cast<unsigned>((value + divisor - 1) / divisor);
}

}  // namespace

void quantise_rows(Stream stream, const QuantiseRowsCall& call) {
  assert(call.stride % 16 == 0 && call.stride >= call.cols);
  if (call.rows == 0) return;
  const auto kernel = call.dtype == DType::kI8 ? quantise_row_bytes<DType::kI8> : quantise_row_bytes<DType::kE4M3>;
  launch(stream, {static_cast<unsigned>(call.rows)}, {kThreads}, 0, kernel, call);
}

void unpack_bytes(Stream stream, const UnpackBytesCall& call) {
  assert(call.stride % 16 == 0 && call.stride >= call.weight.cols);
  const auto panels = static_cast<unsigned>(gpu_panels(call.weight.rows));
  if (call.dtype == DType::kI8) {
    assert(call.weight.dtype == DType::kInt8);
    const unsigned groups = divide_up(gpu_units(DType::kInt8, call.weight.cols), Group<DType::kInt8>::kUnits);
    return launch(stream, {divide_up(groups, kWarps), panels}, {kThreads}, 0, unpack_int8, call);
  }
  with_format(call.weight.dtype,
              [&]<DType kType>() { launch(stream, {panels}, {kThreads}, 0, unpack_e4m3<kType>, call); });
}

void finish_bytes(Stream stream, const FinishBytesCall& call) {
  constexpr std::size_t kMostRows = 65535;  // of a grid's second dimension
  const auto kernel = call.dtype == DType::kI8 ? finish_products<std::int32_t> : finish_products<float>;
  FinishBytesCall part = call;
  for (std::size_t row = 0; row < call.rows; row += kMostRows) {
    part.rows = call.rows - row < kMostRows ? call.rows - row : kMostRows;
    part.product = static_cast<const float*>(call.product) + row * call.product_stride;  // both types have its size
    part.in_scales = call.in_scales + row;
    part.out = call.out + row * call.out_stride;
    launch(stream, {divide_up(call.outs, kThreads), static_cast<unsigned>(part.rows)}, {kThreads}, 0, kernel, part);
  }
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
