#include "kernels/cuda/rope.h"

#include <cassert>

#include "kernels/cuda/warp.cuh"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kHeadsABlock = 8;  // one a warp
constexpr unsigned kMostPairs = kMaxGpuHeadDim / 2;
constexpr float kNoPageScale = 0x1p-118f;  // as kernels/cpu/kv_slots.h has it

// cos and sin of position * frequency, as good as float has them at any position: the product takes double, and what
// is left of it after whole turns does not.
__device__ __forceinline__ float2 turn(unsigned position, float inverse_frequency, float magnitude) {
  constexpr double kInversePi = 0.318309886183790671538;
  const double half_turns = double(position) * double(inverse_frequency) * kInversePi;
  float sine, cosine;
  sincospif(float(half_turns - 2 * rint(half_turns / 2)), &sine, &cosine);
  return make_float2(cosine * magnitude, sine * magnitude);
}

// By the warp, in place.
__device__ __forceinline__ void norm_head(float* head, unsigned head_dim, const float* weight, float eps) {
  const unsigned lane = threadIdx.x % kWarpSize;
  float squares = 0;
  for (unsigned i = lane; i < head_dim; i += kWarpSize) squares = __fmaf_rn(head[i], head[i], squares);
  const float mean = __fdiv_rn(warp_sum(squares), float(head_dim));
  const float factor = __fdiv_rn(1.0f, __fsqrt_rn(mean + eps));
  for (unsigned i = lane; i < head_dim; i += kWarpSize) head[i] = head[i] * factor * weight[i];
  __syncwarp();
}

// By the warp, in place. turns: (pairs) of cos and sin.
__device__ __forceinline__ void rotate(float* head, const float2* turns, unsigned pairs, bool is_halves) {
  for (unsigned pair = threadIdx.x % kWarpSize; pair < pairs; pair += kWarpSize) {
    float& x = head[is_halves ? pair : 2 * pair];
    float& y = head[is_halves ? pair + pairs : 2 * pair + 1];
    const float2 by = turns[pair];
    const float rotated_x = __fmaf_rn(x, by.x, -__fmul_rn(y, by.y));
    y = __fmaf_rn(y, by.x, __fmul_rn(x, by.y));
    x = rotated_x;
  }
  __syncwarp();
}

// By the warp: a head to a slot, its elements `step` apart, as kernels/cpu/kv_slots.h does it.
__device__ __forceinline__ void store_head(const float* head, unsigned head_dim, DType dtype, void* to,
                                           std::size_t first, std::size_t step, float* scale) {
  const unsigned lane = threadIdx.x % kWarpSize;
  if (!has_page_scales(dtype)) {
    for (unsigned i = lane; i < head_dim; i += kWarpSize) {
      const std::size_t index = first + i * step;
      if (dtype == DType::kF32) static_cast<float*>(to)[index] = head[i];
      if (dtype == DType::kF16) static_cast<__half*>(to)[index] = __float2half_rn(head[i]);
      if (dtype == DType::kBF16) static_cast<__nv_bfloat16*>(to)[index] = __float2bfloat16_rn(head[i]);
    }
    return;
  }
  float largest = 0;
  bool is_finite = true;
  for (unsigned i = lane; i < head_dim; i += kWarpSize) {
    is_finite = is_finite && fabsf(head[i]) < __uint_as_float(0x7f800000);
    largest = fmaxf(largest, fabsf(head[i]));
  }
  is_finite = __all_sync(kAllLanes, is_finite) != 0;
  largest = warp_max(largest);
  const float limit = dtype == DType::kI8 ? 127.0f : 448.0f;
  const float inverse = is_finite && largest > kNoPageScale ? __fdiv_rn(limit, largest) : 0;
  for (unsigned i = lane; i < head_dim; i += kWarpSize) {
    const float scaled = inverse != 0 ? head[i] * inverse : 0;
    static_cast<std::uint8_t*>(to)[first + i * step] =
        dtype == DType::kI8 ? static_cast<std::uint8_t>(static_cast<int>(scaled + (scaled < 0 ? -0.5f : 0.5f)))
                            : __nv_cvt_float_to_fp8(scaled, __NV_SATFINITE, __NV_E4M3);
  }
  if (lane == 0) *scale = is_finite ? __fdiv_rn(largest, limit) : __uint_as_float(0x7fffffff);
}

// Blocks: (rows, heads of queries, keys and values in turn / kHeadsABlock).
__global__ void __launch_bounds__(kHeadsABlock* kWarpSize) rotate_and_store_heads(RotateAndStoreArgs args) {
  __shared__ float heads[kHeadsABlock][kMaxGpuHeadDim];
  __shared__ float2 turns[kMostPairs];
  const PagedKv& kv = args.kv;
  const auto head_dim = static_cast<unsigned>(kv.head_dim);
  const auto num_kv_heads = static_cast<unsigned>(kv.num_kv_heads);
  const auto pairs = static_cast<unsigned>(args.num_frequencies);
  const auto num_heads = static_cast<unsigned>(args.queries.cols) / head_dim;
  const unsigned row = blockIdx.x;
  const unsigned lane = threadIdx.x % kWarpSize, warp = threadIdx.x / kWarpSize;

  for (unsigned pair = threadIdx.x; pair < pairs; pair += blockDim.x) {
    turns[pair] = turn(args.positions[row], args.inverse_frequencies[pair], args.magnitude);
  }
  __syncthreads();
  const unsigned number = blockIdx.y * kHeadsABlock + warp;
  if (number >= num_heads + 2 * num_kv_heads) return;

  const bool is_query = number < num_heads;
  const bool is_key = !is_query && number < num_heads + num_kv_heads;
  const unsigned kv_head = is_query ? 0 : (number - num_heads) % num_kv_heads;
  const float* from = is_query ? args.queries.data + row * args.queries.row_stride + number * head_dim
                      : is_key ? args.keys.data + row * args.keys.row_stride + kv_head * head_dim
                               : args.values.data + row * args.values.row_stride + kv_head * head_dim;
  float* const head = heads[warp];
  for (unsigned i = lane; i < head_dim; i += kWarpSize) head[i] = from[i];
  __syncwarp();
  if (is_query || is_key) {
    const float* const norm = is_query ? args.query_norm : args.key_norm;
    if (norm != nullptr) norm_head(head, head_dim, norm, args.eps);
    rotate(head, turns, pairs, args.layout == RopeLayout::kHalves);
  }
  if (is_query) {
    float* const to = args.queries.data + row * args.queries.row_stride + number * head_dim;
    for (unsigned i = lane; i < head_dim; i += kWarpSize) to[i] = head[i];
    return;
  }
  const std::size_t slot = args.slots[row];
  if (slot == kNoSlot) return;
  if (is_key) {
    store_head(head, head_dim, kv.dtype, kv.keys, kv.key_index(slot, kv_head), kv.block_size,
               kv.key_scales + kv.scale_index(slot, kv_head));
  } else {
    store_head(head, head_dim, kv.dtype, kv.values, kv.value_index(slot, kv_head), 1,
               kv.value_scales + kv.scale_index(slot, kv_head));
  }
}

}  // namespace

void rotate_and_store(Stream stream, const RotateAndStoreArgs& args) {
  const PagedKv& kv = args.kv;
  const std::size_t rows = args.queries.rows;
  assert(kv.head_dim > 0 && kv.head_dim <= kMaxGpuHeadDim && args.queries.cols % kv.head_dim == 0);
  assert(args.keys.rows == rows && args.values.rows == rows && args.keys.cols == kv.num_kv_heads * kv.head_dim);
  assert(args.values.cols == args.keys.cols && 2 * args.num_frequencies <= kv.head_dim);
  if (rows == 0) return;
  const std::size_t heads = args.queries.cols / kv.head_dim + 2 * kv.num_kv_heads;
  launch(stream, {static_cast<unsigned>(rows), static_cast<unsigned>((heads + kHeadsABlock - 1) / kHeadsABlock)},
         kHeadsABlock * kWarpSize, 0, rotate_and_store_heads, args);
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
