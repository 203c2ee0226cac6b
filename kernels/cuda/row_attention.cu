#include "kernels/cuda/row_attention.h"

#include <cassert>

#include "kernels/cuda/element.cuh"
#include "kernels/cuda/warp.cuh"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kMaxThreads = 256;
constexpr unsigned kTileKeys = 64;

// The sequence that a row belongs to: the last one that begins at or before it.
__device__ std::size_t sequence_of(const std::uint32_t* row_starts, std::size_t num_sequences, std::size_t row) {
  std::size_t first = 0, end = num_sequences;
  while (end - first > 1) {
    const std::size_t middle = (first + end) / 2;
    if (row_starts[middle] <= row) {
      first = middle;
    } else {
      end = middle;
    }
  }
  return first;
}

// Every thread gets it. shared: (warps); free again for the next call.
__device__ float largest_of_block(float value, float* shared) {
  value = warp_max(value);
  if (threadIdx.x % kWarpSize == 0) shared[threadIdx.x / kWarpSize] = value;
  __syncthreads();
  for (unsigned warp = 0; warp < blockDim.x / kWarpSize; ++warp) value = fmaxf(value, shared[warp]);
  __syncthreads();
  return value;
}

// A block a head of a row. For scores, threads take keys, which lie side by side in a block of pages; for values,
// threads take elements of the head, which do as well.
__global__ void __launch_bounds__(kMaxThreads) row_attention_kernel(RowAttentionArgs args) {
  __shared__ float query[kMaxThreads];
  __shared__ float weights[kTileKeys];
  __shared__ float shared[kMaxThreads / kWarpSize];
  const std::size_t row = blockIdx.x, head = blockIdx.y, thread = threadIdx.x;
  const PagedKv& kv = args.kv;
  const std::size_t head_dim = kv.head_dim;
  const std::size_t kv_head = head / (args.shape.num_heads / kv.num_kv_heads);
  const std::size_t sequence = sequence_of(args.row_starts, args.num_sequences, row);
  const std::size_t end = args.context_lengths[sequence] - (args.row_starts[sequence + 1] - 1 - row);
  const std::size_t window = args.shape.sliding_window;
  const std::size_t begin = window != 0 && end > window ? end - window : 0;
  const std::uint32_t* table = args.block_tables + args.block_table_starts[sequence];

  if (thread < head_dim) query[thread] = args.queries[row * args.queries_stride + head * head_dim + thread];
  __syncthreads();
  float highest = -INFINITY, sum = 0, value = 0;
  for (std::size_t tile = begin / kTileKeys * kTileKeys; tile < end; tile += kTileKeys) {
    const std::size_t position = tile + thread;
    float score = -INFINITY;
    if (thread < kTileKeys && position >= begin && position < end) {
      const std::size_t page = table[position / kv.block_size] * kv.num_kv_heads + kv_head;
      const std::size_t offset = position % kv.block_size, first = page * head_dim * kv.block_size + offset;
      score = 0;
      for (std::size_t i = 0; i < head_dim; ++i) {
        score += query[i] * load_element(kv.keys, kv.dtype, first + i * kv.block_size);
      }
      if (kv.dtype == DType::kI8) score *= kv.key_scales[page * kv.block_size + offset];
      score *= args.shape.scale;
    }
    const float highest_now = fmaxf(highest, largest_of_block(score, shared));
    // A NaN stays one: fmaxf drops it, and the difference keeps it.
    const float weight = score == -INFINITY ? 0 : expf(score - highest_now);
    const float shrink = highest == -INFINITY ? 0 : expf(highest - highest_now);
    sum = sum * shrink + block_sum(weight, shared);
    __syncthreads();
    value *= shrink;
    highest = highest_now;
    if (thread < kTileKeys) weights[thread] = weight;
    __syncthreads();
    if (thread < head_dim) {
      const std::size_t keys = end - tile < kTileKeys ? end - tile : kTileKeys;
      for (std::size_t key = begin > tile ? begin - tile : 0; key < keys; ++key) {
        const std::size_t at = tile + key;
        const std::size_t page = table[at / kv.block_size] * kv.num_kv_heads + kv_head;
        const std::size_t index = page * kv.block_size + at % kv.block_size;
        float element = load_element(kv.values, kv.dtype, index * head_dim + thread);
        if (kv.dtype == DType::kI8) element *= kv.value_scales[index];
        value += weights[key] * element;
      }
    }
  }
  if (thread < head_dim) args.out[row * args.out_stride + head * head_dim + thread] = value / sum;
}

}  // namespace

void row_attention(Stream stream, const RowAttentionArgs& args) {
  assert(args.kv.head_dim <= kMaxThreads);
  if (args.rows == 0) return;
  const std::size_t most = args.kv.head_dim > kTileKeys ? args.kv.head_dim : kTileKeys;
  const std::size_t threads = (most + kWarpSize - 1) / kWarpSize * kWarpSize;
  launch(stream, Grid(static_cast<unsigned>(args.rows), static_cast<unsigned>(args.shape.num_heads)),
         Block(static_cast<unsigned>(threads)), 0, row_attention_kernel, args);
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
