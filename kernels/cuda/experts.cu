#include "kernels/cuda/experts.h"

#include <cassert>

#include "kernels/cuda/simt.h"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kAll = 0xffffffff;
constexpr unsigned kRowsABlock = 4;  // of choose(), a warp each
constexpr unsigned kThreads = 256;
constexpr unsigned kWarps = kThreads / 32;

__device__ __forceinline__ unsigned live_rows_of(const std::uint32_t* live_rows, std::size_t rows) {
  return live_rows != nullptr ? min(__ldg(live_rows), static_cast<unsigned>(rows)) : static_cast<unsigned>(rows);
}

// A warp a row. The first lane inserts as kernels/cpu/routing.h does: comparing is all that is safe with what may not
// be a number.
__global__ void __launch_bounds__(32 * kRowsABlock) choose(RouteCall call) {
  __shared__ float chosen_logits[kRowsABlock][kMostExpertsPerToken];
  __shared__ unsigned chosen_experts[kRowsABlock][kMostExpertsPerToken];
  const unsigned warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const unsigned row = blockIdx.x * kRowsABlock + warp;
  if (row >= live_rows_of(call.live_rows, call.rows)) return;
  const float* logits = call.router_logits + row * call.row_stride;
  float* values = chosen_logits[warp];
  unsigned* experts = chosen_experts[warp];
  const auto num_experts = static_cast<unsigned>(call.num_experts);
  const auto per_token = static_cast<unsigned>(call.per_token);

  unsigned chosen = 0;
  for (unsigned first = 0; first < num_experts; first += 32) {
    const float mine = first + lane < num_experts ? logits[first + lane] : 0.0f;
    for (unsigned i = 0; i < 32 && first + i < num_experts; ++i) {
      const float logit = __shfl_sync(kAll, mine, i);
      if (lane != 0) continue;
      if (chosen == per_token && !(logit > values[chosen - 1])) continue;
      unsigned place = chosen == per_token ? chosen - 1 : chosen++;
      for (; place > 0 && logit > values[place - 1]; --place) {
        values[place] = values[place - 1];
        experts[place] = experts[place - 1];
      }
      values[place] = logit;
      experts[place] = first + i;
    }
  }
  __syncwarp();

  const float largest = values[0];
  const auto exponential = [&](float logit) { return exp(static_cast<double>(logit) - largest); };
  const double mine = lane < per_token ? exponential(values[lane]) : 0;
  double sum = 0;
  if (call.normalise) {
    for (unsigned i = 0; i < per_token; ++i) sum += __shfl_sync(kAll, mine, i);
  } else {
    for (unsigned first = 0; first < num_experts; first += 32) {
      const double others = first + lane < num_experts ? exponential(logits[first + lane]) : 0;
      for (unsigned i = 0; i < 32 && first + i < num_experts; ++i) sum += __shfl_sync(kAll, others, i);
    }
  }
  if (lane >= per_token) return;
  // Where this choice comes when experts ascend.
  unsigned place = 0;
  for (unsigned i = 0; i < per_token; ++i) place += experts[i] < experts[lane] ? 1 : 0;
  call.experts[row * call.per_token + place] = experts[lane];
  call.weights[row * call.per_token + place] = static_cast<float>(mine / sum);
}

__device__ __forceinline__ unsigned sum_of_warp(unsigned value) {
#pragma unroll
  for (unsigned step = 1; step < 32; step *= 2) value += __shfl_xor_sync(kAll, value, step);
  return value;
}

// The sum of all threads' values. REQUIRES: sums is free.
__device__ __forceinline__ unsigned sum_of_block(unsigned value, unsigned (&sums)[kWarps]) {
  value = sum_of_warp(value);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  unsigned sum = 0;
#pragma unroll
  for (unsigned warp = 0; warp < kWarps; ++warp) sum += sums[warp];
  __syncthreads();
  return sum;
}

// A counting sort, a block an expert: it counts what goes to experts before its own, then puts its own in order.
__global__ void __launch_bounds__(kThreads) sort_by_expert(RouteCall call) {
  __shared__ unsigned sums[kWarps];
  const unsigned expert = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const unsigned choices = live_rows_of(call.live_rows, call.rows) * static_cast<unsigned>(call.per_token);
  unsigned before = 0;
  for (unsigned i = threadIdx.x; i < choices; i += kThreads) before += call.experts[i] < expert ? 1 : 0;
  unsigned place = sum_of_block(before, sums);
  if (threadIdx.x == 0) call.starts[expert] = place;
  if (expert + 1 == call.num_experts) {
    if (threadIdx.x == 0) call.starts[expert + 1] = choices;
    const auto places = static_cast<unsigned>(call.rows * call.per_token);
    for (unsigned i = choices + threadIdx.x; i < places; i += kThreads) call.row_of[i] = 0;
  }
  for (unsigned first = 0; first < choices; first += kThreads) {
    const unsigned i = first + threadIdx.x;
    const bool mine = i < choices && call.experts[i] == expert;
    const unsigned votes = __ballot_sync(kAll, mine);
    if (lane == 0) sums[warp] = __popc(votes);
    __syncthreads();
    unsigned earlier = 0, all = 0;
#pragma unroll
    for (unsigned other = 0; other < kWarps; ++other) {
      earlier += other < warp ? sums[other] : 0;
      all += sums[other];
    }
    if (mine) {
      const unsigned at = place + earlier + __popc(votes & ((1u << lane) - 1));
      call.row_of[at] = i / static_cast<unsigned>(call.per_token);
      call.places[i] = at;
    }
    place += all;
    __syncthreads();
  }
}

// Products and sums are rounded one by one, as the CPU rounds them.
__global__ void __launch_bounds__(kThreads) add_up(CombineCall call) {
  const unsigned row = blockIdx.y, col = blockIdx.x * kThreads + threadIdx.x;
  if (col >= call.cols || row >= live_rows_of(call.live_rows, call.rows)) return;
  const float* weights = call.weights + row * call.per_token;
  const std::uint32_t* places = call.places + row * call.per_token;
  float* out = call.out + row * call.out_stride + col;
  float sum = *out;
  for (unsigned i = 0; i < call.per_token; ++i) {
    sum = __fadd_rn(sum, __fmul_rn(__ldg(weights + i), __ldg(call.in + __ldg(places + i) * call.in_stride + col)));
  }
  *out = sum;
}

// A block a row.
__global__ void __launch_bounds__(kThreads) weigh(SigmoidCall call) {
  __shared__ double sums[kWarps];
  const float* in = call.in + blockIdx.x * call.in_stride;
  double dot = 0;
  for (unsigned col = threadIdx.x; col < call.in_cols; col += kThreads) {
    dot += static_cast<double>(in[col]) * __ldg(call.weight + col);
  }
#pragma unroll
  for (unsigned step = 1; step < 32; step *= 2) dot += __shfl_xor_sync(kAll, dot, step);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = dot;
  __syncthreads();
  dot = 0;
#pragma unroll
  for (unsigned warp = 0; warp < kWarps; ++warp) dot += sums[warp];
  const auto share = static_cast<float>(1 / (1 + exp(-dot)));
  float* out = call.out + blockIdx.x * call.out_stride;
  for (unsigned col = threadIdx.x; col < call.out_cols; col += kThreads) out[col] *= share;
}

unsigned divide_up(std::size_t value, std::size_t divisor) {
  return static_cast<unsigned>((value + divisor - 1) / divisor);
}

}  // namespace

void route(Stream stream, const RouteCall& call) {
  assert(call.per_token >= 1 && call.per_token <= kMostExpertsPerToken && call.per_token <= call.num_experts);
  if (call.rows == 0) return;
  launch(stream, {divide_up(call.rows, kRowsABlock)}, {32 * kRowsABlock}, 0, choose, call);
  launch(stream, {static_cast<unsigned>(call.num_experts)}, {kThreads}, 0, sort_by_expert, call);
}

void combine(Stream stream, const CombineCall& call) {
  if (call.rows == 0) return;
  launch(stream, {divide_up(call.cols, kThreads), static_cast<unsigned>(call.rows)}, {kThreads}, 0, add_up, call);
}

void weigh_by_sigmoid(Stream stream, const SigmoidCall& call) {
  if (call.rows == 0) return;
  launch(stream, {static_cast<unsigned>(call.rows)}, {kThreads}, 0, weigh, call);
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
