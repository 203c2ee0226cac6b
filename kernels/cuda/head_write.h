#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/gpu.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

// What follows the projections to heads: norms each head of queries and keys where there are norms, rotates them, and
// writes keys and values to their slots (Kernels::project_qkv). All pointers, those of `kv` among them, are of the
// device, strides in elements.
struct HeadWriteArgs {
  float* queries = nullptr;  // (rows, num_heads * head_dim): changed in place
  std::size_t queries_stride = 0;
  const float* keys = nullptr;    // (rows, num_kv_heads * head_dim)
  const float* values = nullptr;  // the same
  std::size_t keys_stride = 0;    // of both
  std::size_t rows = 0;
  std::size_t num_heads = 0;
  const float* query_norm = nullptr;  // (head_dim) or null
  const float* key_norm = nullptr;    // (head_dim) or null
  float eps = 0;
  const std::uint32_t* positions = nullptr;    // (rows)
  const float* inverse_frequencies = nullptr;  // (num_pairs)
  std::size_t num_pairs = 0;
  float magnitude = 1;
  RopeLayout layout = RopeLayout::kHalves;
  const std::uint32_t* slots = nullptr;  // (rows)
  PagedKv kv;                            // head_dim at most kMaxHeadDim
};

constexpr std::size_t kMaxHeadDim = 256;

// Asynchronous on the stream.
TROUPE_GPU_FUNCTIONS(void head_write(Stream stream, const HeadWriteArgs& args);)

}  // namespace troupe::kernels
