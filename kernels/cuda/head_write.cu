#include "kernels/cuda/head_write.h"

#include <cassert>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/warp.cuh"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

// Writes a head as int8, as kernels/cpu/kv_slots.h does; `step` elements apart.
__device__ void store_quantised(const float* head, std::size_t size, std::int8_t* to, std::size_t step, float* scale,
                                float* shared) {
  const bool in_head = threadIdx.x < size;
  const float value = in_head ? head[threadIdx.x] : 0;
  float largest = warp_max(fabsf(value));
  if (threadIdx.x % kWarpSize == 0) shared[threadIdx.x / kWarpSize] = largest;
  __syncthreads();
  for (unsigned warp = 0; warp < blockDim.x / kWarpSize; ++warp) largest = fmaxf(largest, shared[warp]);
  __syncthreads();
  // fmaxf drops NaNs: they are counted apart.
  const bool is_finite = block_sum(fabsf(value) < INFINITY ? 0.0f : 1.0f, shared) == 0;
  if (threadIdx.x == 0) *scale = is_finite ? largest / 127 : NAN;
  if (!in_head) return;
  const bool is_usable = is_finite && largest > 0;
  // Clamped because 127 / largest overflows for the smallest numbers.
  const float scaled = is_usable ? fminf(fmaxf(value * (127 / largest), -127.0f), 127.0f) : 0;
  to[threadIdx.x * step] = static_cast<std::int8_t>(scaled + (scaled < 0 ? -0.5f : 0.5f));
}

// A block a head of a row: queries first, then keys, then values.
__global__ void __launch_bounds__(kMaxHeadDim) head_write_kernel(HeadWriteArgs args) {
  __shared__ float head[kMaxHeadDim];
  __shared__ float shared[kMaxHeadDim / kWarpSize];
  const std::size_t row = blockIdx.x, head_dim = args.kv.head_dim, i = threadIdx.x;
  const bool is_query = blockIdx.y < args.num_heads;
  const bool is_key = !is_query && blockIdx.y < args.num_heads + args.kv.num_kv_heads;
  const std::size_t kv_head = (blockIdx.y - args.num_heads) % args.kv.num_kv_heads;
  float* query = args.queries + row * args.queries_stride + blockIdx.y * head_dim;
  const float* from =
      is_query ? query : (is_key ? args.keys : args.values) + row * args.keys_stride + kv_head * head_dim;

  float value = i < head_dim ? from[i] : 0;
  const float* norm = is_query ? args.query_norm : is_key ? args.key_norm : nullptr;
  if (norm != nullptr) {
    const float mean = block_sum(value * value, shared) / static_cast<float>(head_dim);
    if (i < head_dim) value = value * (1 / sqrtf(mean + args.eps)) * norm[i];
  }
  if (i < head_dim) head[i] = value;
  __syncthreads();

  if ((is_query || is_key) && i < args.num_pairs) {
    const bool halves = args.layout == RopeLayout::kHalves;
    float& x = head[halves ? i : 2 * i];
    float& y = head[halves ? i + args.num_pairs : 2 * i + 1];
    // In double: at position 100,000 a float32 angle is already off by 0.004.
    double sine = 0, cosine = 0;
    sincos(static_cast<double>(args.positions[row]) * args.inverse_frequencies[i], &sine, &cosine);
    const float c = static_cast<float>(cosine * args.magnitude), s = static_cast<float>(sine * args.magnitude);
    const float rotated = x * c - y * s;
    y = y * c + x * s;
    x = rotated;
  }
  __syncthreads();

  if (is_query) {
    if (i < head_dim) query[i] = head[i];
    return;
  }
  const PagedKv& kv = args.kv;
  const std::size_t slot = args.slots[row], block = slot / kv.block_size, offset = slot % kv.block_size;
  const std::size_t scale_index = (block * kv.num_kv_heads + kv_head) * kv.block_size + offset;
  const std::size_t first =
      is_key ? (block * kv.num_kv_heads + kv_head) * head_dim * kv.block_size + offset : scale_index * head_dim;
  const std::size_t step = is_key ? kv.block_size : 1;
  void* to = is_key ? kv.keys : kv.values;
  if (kv.dtype == DType::kI8) {
    store_quantised(head, head_dim, static_cast<std::int8_t*>(to) + first, step,
                    (is_key ? kv.key_scales : kv.value_scales) + scale_index, shared);
  } else if (i < head_dim) {
    store_element(head[i], to, kv.dtype, first + i * step);
  }
}

}  // namespace

void head_write(Stream stream, const HeadWriteArgs& args) {
  assert(args.kv.head_dim <= kMaxHeadDim && 2 * args.num_pairs <= args.kv.head_dim);
  if (args.rows == 0) return;
  const std::size_t threads = (args.kv.head_dim + kWarpSize - 1) / kWarpSize * kWarpSize;
  launch(stream,
         Grid(static_cast<unsigned>(args.rows), static_cast<unsigned>(args.num_heads + 2 * args.kv.num_kv_heads)),
         Block(static_cast<unsigned>(threads)), 0, head_write_kernel, args);
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
