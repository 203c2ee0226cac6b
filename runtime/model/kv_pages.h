#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/kernels.h"
#include "runtime/base/result.h"
#include "runtime/model/arenas.h"
#include "runtime/model/slice.h"

namespace troupe::model {

// What KV pages may be stored as, by the names that topologies and commands use: f32, f16, bf16, int8.
// Errors: kInvalidArgument, "kv_dtype".
Result<kernels::DType> parse_kv_dtype(std::string_view name);
std::string_view kv_dtype_name(kernels::DType dtype);  // REQUIRES: one of them

// Paged K and V of one shard: for each of its layers, num_blocks blocks of block_size tokens of its KV heads.
// Which sequence owns which block is the engine's business. Owns the memory, which is a device's; one thread.
class KvPages {
 public:
  // kv_dtype: kF32, kF16, kBF16 or kI8 (with a scale for each token and head). Errors: kInvalidArgument,
  // kResourceExhausted (names kv_memory). REQUIRES: check_slice(config, slice).ok()
  static Result<KvPages> create(const ModelConfig& config, const Slice& slice, std::uint32_t num_blocks,
                                std::uint32_t block_size, kernels::DType kv_dtype = kernels::DType::kF32,
                                kernels::DeviceMemory& memory = kernels::host_memory());

  // layer: of the model, in [slice.first_layer, slice.last_layer).
  const kernels::PagedKv& layer(std::uint32_t layer) const { return layers_[layer - first_layer_]; }

  std::uint32_t num_blocks() const { return num_blocks_; }
  std::uint32_t block_size() const { return block_size_; }
  std::uint64_t bytes() const { return arena_.used(); }

 private:
  KvPages() = default;

  Arena arena_;
  std::uint32_t first_layer_ = 0;
  std::uint32_t num_blocks_ = 0;
  std::uint32_t block_size_ = 0;
  std::vector<kernels::PagedKv> layers_;  // (layers of the slice)
};

}  // namespace troupe::model
