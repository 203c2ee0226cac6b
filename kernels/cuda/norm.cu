#include "kernels/cuda/norm.h"

#include <cassert>

#include "kernels/cuda/warp.cuh"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kVector = 4;  // floats that a thread takes at a time
constexpr unsigned kHeld = 4;    // vectors of a row that a thread keeps in registers
constexpr unsigned kMaxThreads = 1024;

struct Vector {
  float x[kVector];
};

__device__ __forceinline__ Vector load(const float* row, unsigned first, unsigned cols, bool is_aligned) {
  Vector v = {};
  if (is_aligned) {
    if (first < cols) {
      const float4 four = *reinterpret_cast<const float4*>(row + first);
      v = {{four.x, four.y, four.z, four.w}};
    }
  } else {
#pragma unroll
    for (unsigned i = 0; i < kVector; ++i) {
      if (first + i < cols) v.x[i] = row[first + i];
    }
  }
  return v;
}

__device__ __forceinline__ void store(float* row, unsigned first, unsigned cols, bool is_aligned, const Vector& v) {
  if (is_aligned) {
    if (first < cols) *reinterpret_cast<float4*>(row + first) = make_float4(v.x[0], v.x[1], v.x[2], v.x[3]);
  } else {
#pragma unroll
    for (unsigned i = 0; i < kVector; ++i) {
      if (first + i < cols) row[first + i] = v.x[i];
    }
  }
}

// The row's vector, with the addend's where there is one, which is then stored.
template <bool kAdds>
__device__ __forceinline__ Vector take(const float* in, const float* addend, float* sum, unsigned first, unsigned cols,
                                       bool is_aligned) {
  Vector v = load(in, first, cols, is_aligned);
  if constexpr (kAdds) {
    const Vector more = load(addend, first, cols, is_aligned);
#pragma unroll
    for (unsigned i = 0; i < kVector; ++i) v.x[i] += more.x[i];
    store(sum, first, cols, is_aligned, v);
  }
  return v;
}

__device__ __forceinline__ float squares(const Vector& v) {
  return __fmaf_rn(v.x[0], v.x[0], __fmul_rn(v.x[1], v.x[1])) + __fmaf_rn(v.x[2], v.x[2], __fmul_rn(v.x[3], v.x[3]));
}

// One row a block. Without kAdds, in is normed; with it, sum += addend, which is then normed.
template <bool kAdds>
__global__ void __launch_bounds__(kMaxThreads)
    norm_rows(const float* in, std::size_t in_stride, const float* addend, std::size_t addend_stride, float* sum,
              const float* weight, float eps, float* out, std::size_t out_stride, unsigned cols, bool is_aligned) {
  __shared__ float partial[kWarpSize];
  const std::size_t row = blockIdx.x;
  in += row * in_stride;
  out += row * out_stride;
  if constexpr (kAdds) {
    addend += row * addend_stride;
    sum += row * in_stride;
  }
  const unsigned step = blockDim.x * kVector;
  const unsigned begin = threadIdx.x * kVector;

  Vector held[kHeld];
  float total = 0;
#pragma unroll
  for (unsigned i = 0; i < kHeld; ++i) {
    held[i] = take<kAdds>(in, addend, sum, begin + i * step, cols, is_aligned);
    total += squares(held[i]);
  }
  for (unsigned first = begin + kHeld * step; first < cols; first += step) {
    total += squares(take<kAdds>(in, addend, sum, first, cols, is_aligned));
  }
  total = block_sum(total, partial);
  const float factor = __fdiv_rn(1.0f, __fsqrt_rn(__fdiv_rn(total, float(cols)) + eps));

  const auto finish = [&](Vector v, unsigned first) {
    const Vector w = load(weight, first, cols, is_aligned);
#pragma unroll
    for (unsigned i = 0; i < kVector; ++i) v.x[i] = v.x[i] * factor * w.x[i];
    store(out, first, cols, is_aligned, v);
  };
#pragma unroll
  for (unsigned i = 0; i < kHeld; ++i) finish(held[i], begin + i * step);
  for (unsigned first = begin + kHeld * step; first < cols; first += step) {
    finish(load(kAdds ? sum : in, first, cols, is_aligned), first);
  }
}

__global__ void __launch_bounds__(256) add_rows(const float* addend, std::size_t addend_stride, float* sum,
                                                std::size_t sum_stride, unsigned cols, bool is_aligned) {
  const unsigned first = (blockIdx.x * blockDim.x + threadIdx.x) * kVector;
  addend += blockIdx.y * addend_stride;
  sum += blockIdx.y * sum_stride;
  if (first < cols) take<true>(sum, addend, sum, first, cols, is_aligned);
}

bool is_aligned(const void* data, std::size_t stride, std::size_t cols) {
  return reinterpret_cast<std::uintptr_t>(data) % 16 == 0 && stride % kVector == 0 && cols % kVector == 0;
}

// Of cols alone, because the order of sums depends on it. Up to 8 floats a thread while there can be more threads.
unsigned norm_threads(std::size_t cols) {
  const std::size_t warps = (cols + 8 * kWarpSize - 1) / (8 * kWarpSize);
  return static_cast<unsigned>(warps < kMaxThreads / kWarpSize ? warps * kWarpSize : kMaxThreads);
}

}  // namespace

void rms_norm(Stream stream, const RmsNormArgs& args) {
  const auto& [in, weight, eps, out] = args;
  assert(in.rows == out.rows && in.cols == out.cols && in.cols > 0);
  if (in.rows == 0) return;
  const bool aligned = is_aligned(in.data, in.row_stride, in.cols) && is_aligned(out.data, out.row_stride, in.cols) &&
                       is_aligned(weight, 0, in.cols);
  launch(stream, static_cast<unsigned>(in.rows), norm_threads(in.cols), 0, norm_rows<false>, in.data, in.row_stride,
         nullptr, 0, nullptr, weight, eps, out.data, out.row_stride, static_cast<unsigned>(in.cols), aligned);
}

void add_rms_norm(Stream stream, const AddRmsNormArgs& args) {
  const auto& [addend, sum, weight, eps, out] = args;
  assert(addend.rows == sum.rows && addend.cols == sum.cols && sum.rows == out.rows && sum.cols == out.cols);
  assert(sum.cols > 0);
  if (sum.rows == 0) return;
  const bool aligned = is_aligned(addend.data, addend.row_stride, sum.cols) &&
                       is_aligned(sum.data, sum.row_stride, sum.cols) &&
                       is_aligned(out.data, out.row_stride, sum.cols) && is_aligned(weight, 0, sum.cols);
  launch(stream, static_cast<unsigned>(sum.rows), norm_threads(sum.cols), 0, norm_rows<true>, sum.data, sum.row_stride,
         addend.data, addend.row_stride, sum.data, weight, eps, out.data, out.row_stride,
         static_cast<unsigned>(sum.cols), aligned);
}

void add(Stream stream, const AddArgs& args) {
  constexpr unsigned kThreads = 256;
  constexpr std::size_t kMostRows = 65535;  // of a grid's second dimension
  const auto& [addend, sum] = args;
  assert(addend.rows == sum.rows && addend.cols == sum.cols);
  if (sum.cols == 0) return;
  const bool aligned =
      is_aligned(addend.data, addend.row_stride, sum.cols) && is_aligned(sum.data, sum.row_stride, sum.cols);
  const auto blocks = static_cast<unsigned>((sum.cols + kThreads * kVector - 1) / (kThreads * kVector));
  for (std::size_t row = 0; row < sum.rows; row += kMostRows) {
    const std::size_t rows = sum.rows - row < kMostRows ? sum.rows - row : kMostRows;
    launch(stream, {blocks, static_cast<unsigned>(rows)}, kThreads, 0, add_rows, addend.row(row), addend.row_stride,
           sum.row(row), sum.row_stride, static_cast<unsigned>(sum.cols), aligned);
  }
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
