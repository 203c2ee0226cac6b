#include "kernels/cuda/norm.h"

#include <cassert>

#include "kernels/cuda/prepared_input.cuh"
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

// What a norm writes besides its result.
enum class Preparation { kNone, kBf16, kBf16Parts, kBlocks, kRow };

struct NormCall {
  const float* in;  // sum, with kAdds
  std::size_t in_stride;
  const float* addend = nullptr;
  std::size_t addend_stride = 0;
  float* sum = nullptr;
  const float* weight;
  float eps;
  float* out;
  std::size_t out_stride;
  unsigned cols;
  bool is_aligned;
  PreparedInput to;
};

// One row a block. Without kAdds, in is normed; with it, sum += addend, which is then normed.
template <bool kAdds, Preparation kPreparation>
__global__ void __launch_bounds__(kMaxThreads) norm_rows(NormCall call) {
  constexpr bool kPrepares = kPreparation != Preparation::kNone;
  constexpr bool kByRow = kPreparation == Preparation::kRow;
  __shared__ float partial[kWarpSize];
  const unsigned row = blockIdx.x, cols = call.cols;
  const bool is_aligned = call.is_aligned;
  const float* const in = call.in + row * call.in_stride;
  const float* const addend = kAdds ? call.addend + row * call.addend_stride : nullptr;
  float* const sum = kAdds ? call.sum + row * call.in_stride : nullptr;
  float* const out = call.out + row * call.out_stride;
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
  const float factor = __fdiv_rn(1.0f, __fsqrt_rn(__fdiv_rn(total, float(cols)) + call.eps));

  float largest = 0;
  const auto finish = [&](Vector& v, unsigned first) {
    const Vector w = load(call.weight, first, cols, is_aligned);
#pragma unroll
    for (unsigned i = 0; i < kVector; ++i) v.x[i] = v.x[i] * factor * w.x[i];
    store(out, first, cols, is_aligned, v);
    if constexpr (kPrepares) {
#pragma unroll
      for (unsigned i = 0; i < kVector; ++i) v.x[i] = first + i < cols ? v.x[i] : 0;
    }
    if constexpr (kPreparation == Preparation::kBlocks) put_block_part(call.to, row, first, v.x);
    if constexpr (kPreparation == Preparation::kBf16) put_bf16_part(call.to, row, first, v.x, false);
    if constexpr (kPreparation == Preparation::kBf16Parts) put_bf16_part(call.to, row, first, v.x, true);
    if constexpr (kByRow) largest = fmaxf(largest, largest_of(v.x));
  };
  // To the end of what is prepared, whole warps of it where they quantise together.
  constexpr bool kIsFloat = kPreparation == Preparation::kBf16 || kPreparation == Preparation::kBf16Parts;
  const unsigned end = kPrepares ? call.to.units_a_row * (kIsFloat ? 32 : 64) : cols;
#pragma unroll
  for (unsigned i = 0; i < kHeld; ++i) finish(held[i], begin + i * step);
  for (unsigned first = begin + kHeld * step; first < end; first += step) {
    Vector v = load(kAdds ? sum : in, first, cols, is_aligned);
    finish(v, first);
  }
  if constexpr (kByRow) {
    __syncthreads();  // nobody reads `partial` any more
    largest = block_max(largest, partial);
    const float steps = steps_a_unit(largest);
#pragma unroll
    for (unsigned i = 0; i < kHeld; ++i) put_row_part(call.to, row, begin + i * step, held[i].x, steps);
    for (unsigned first = begin + kHeld * step; first < end; first += step) {
      const Vector v = load(out, first, cols, is_aligned);
      put_row_part(call.to, row, first, v.x, steps);
    }
    if (threadIdx.x == 0) call.to.scales[row] = steps == 0 ? 0 : largest / 127;
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

template <bool kAdds>
void launch_norm(Stream stream, std::size_t rows, const NormCall& call, const PreparedNorm& prepared) {
  const auto kernel = [&] {
    if (!prepared.is_wanted) return norm_rows<kAdds, Preparation::kNone>;
    switch (prepared.form) {
      case InputForm::kBf16: return norm_rows<kAdds, Preparation::kBf16>;
      case InputForm::kBf16Parts: return norm_rows<kAdds, Preparation::kBf16Parts>;
      case InputForm::kBlocks: return norm_rows<kAdds, Preparation::kBlocks>;
      default: return norm_rows<kAdds, Preparation::kRow>;
    }
  }();
  launch(stream, static_cast<unsigned>(rows), norm_threads(call.cols), 0, kernel, call);
}

}  // namespace

void rms_norm(Stream stream, const RmsNormArgs& args) {
  const auto& [in, weight, eps, out, prepared] = args;
  assert(in.rows == out.rows && in.cols == out.cols && in.cols > 0);
  if (in.rows == 0) return;
  const bool aligned = is_aligned(in.data, in.row_stride, in.cols) && is_aligned(out.data, out.row_stride, in.cols) &&
                       is_aligned(weight, 0, in.cols);
  launch_norm<false>(stream, in.rows,
                     {.in = in.data,
                      .in_stride = in.row_stride,
                      .weight = weight,
                      .eps = eps,
                      .out = out.data,
                      .out_stride = out.row_stride,
                      .cols = static_cast<unsigned>(in.cols),
                      .is_aligned = aligned,
                      .to = prepared.to},
                     prepared);
}

void add_rms_norm(Stream stream, const AddRmsNormArgs& args) {
  const auto& [addend, sum, weight, eps, out, prepared] = args;
  assert(addend.rows == sum.rows && addend.cols == sum.cols && sum.rows == out.rows && sum.cols == out.cols);
  assert(sum.cols > 0);
  if (sum.rows == 0) return;
  const bool aligned = is_aligned(addend.data, addend.row_stride, sum.cols) &&
                       is_aligned(sum.data, sum.row_stride, sum.cols) &&
                       is_aligned(out.data, out.row_stride, sum.cols) && is_aligned(weight, 0, sum.cols);
  launch_norm<true>(stream, sum.rows,
                    {.in = sum.data,
                     .in_stride = sum.row_stride,
                     .addend = addend.data,
                     .addend_stride = addend.row_stride,
                     .sum = sum.data,
                     .weight = weight,
                     .eps = eps,
                     .out = out.data,
                     .out_stride = out.row_stride,
                     .cols = static_cast<unsigned>(sum.cols),
                     .is_aligned = aligned,
                     .to = prepared.to},
                    prepared);
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
