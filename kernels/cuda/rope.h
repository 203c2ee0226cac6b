#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/gpu_list.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

// The slot of a row whose key and value are stored nowhere.
constexpr std::uint32_t kNoSlot = 0xffffffff;

// All pointers are of the device.
struct RotateAndStoreArgs {
  MatrixF32 queries;                           // (rows, num_heads * head_dim), in place
  ConstMatrixF32 keys;                         // (rows, num_kv_heads * head_dim)
  ConstMatrixF32 values;                       // (rows, num_kv_heads * head_dim)
  const float* query_norm = nullptr;           // (head_dim) or null
  const float* key_norm = nullptr;             // (head_dim) or null
  float eps = 0;                               // of these norms
  const std::uint32_t* positions = nullptr;    // (rows)
  const std::uint32_t* slots = nullptr;        // (rows), or kNoSlot
  const float* inverse_frequencies = nullptr;  // (num_frequencies); the first 2 * num_frequencies elements turn
  std::size_t num_frequencies = 0;
  float magnitude = 1;
  RopeLayout layout = RopeLayout::kHalves;
  PagedKv kv;
};

// What follows the products in Kernels::project_qkv: norms of heads, rotation of queries and keys, keys and values to
// their slots. A warp does a head of a row, in an order that depends on head_dim alone.
TROUPE_GPU_FUNCTIONS(void rotate_and_store(Stream stream, const RotateAndStoreArgs& args);)

}  // namespace troupe::kernels
