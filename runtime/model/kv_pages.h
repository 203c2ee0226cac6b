#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "kernels/kernels.h"
#include "runtime/base/block_copy.h"
#include "runtime/base/result.h"
#include "runtime/model/arenas.h"
#include "runtime/model/slice.h"

namespace troupe::model {

// What KV pages may be stored as, by the names that topologies and commands use: f32, f16, bf16, int8, fp8.
// Errors: kInvalidArgument, "kv_dtype".
Result<kernels::DType> parse_kv_dtype(std::string_view name);
std::string_view kv_dtype_name(kernels::DType dtype);  // REQUIRES: one of them

// Paged K and V of one shard: for each of its layers, num_blocks blocks of block_size tokens of its KV heads.
// Which sequence owns which block is the engine's business. Beside the pages, which lie in a device's memory, there may
// be blocks on the host that no kernel reads, for what had to make room: in memory that the device's copies like best,
// which the host itself takes when it is first written to. Owns the memory; one thread.
class KvPages {
 public:
  // kv_dtype: kF32, kF16, kBF16, or kI8 or kE4M3 (with a scale for each token and head). Errors: kInvalidArgument,
  // kResourceExhausted (names kv_memory). REQUIRES: check_slice(config, slice).ok()
  static Result<KvPages> create(const ModelConfig& config, const Slice& slice, std::uint32_t num_blocks,
                                std::uint32_t block_size, kernels::DType kv_dtype = kernels::DType::kF32,
                                std::uint32_t num_swap_blocks = 0,
                                kernels::DeviceMemory& memory = kernels::host_memory());

  // layer: of the model, in [slice.first_layer, slice.last_layer).
  const kernels::PagedKv& layer(std::uint32_t layer) const { return layers_[layer - first_layer_]; }

  // One after the other; waits for the device once, at the end. Errors: what became of the device. REQUIRES: every
  // block is below num_blocks() + num_swap_blocks(), and none is copied to itself.
  Result<void> copy(std::span<const BlockCopy> copies);

  std::uint32_t num_blocks() const { return num_blocks_; }
  std::uint32_t num_swap_blocks() const { return num_swap_blocks_; }
  std::uint32_t block_size() const { return block_size_; }
  std::uint64_t bytes() const { return arena_.used(); }
  ArenaLevel level() const { return arena_.level("kv"); }
  ArenaLevel swap_level() const { return swap_arena_.level("swap"); }

 private:
  // What lies in the pages one block after the other: keys, values or their scales of one layer.
  struct Piece {
    std::byte* data = nullptr;
    std::size_t block_bytes = 0;
    std::size_t swap_offset = 0;  // within a block beside the pages
  };

  explicit KvPages(kernels::DeviceMemory& memory) : memory_(&memory) {}

  void add_piece(void* data, std::uint64_t block_bytes);
  std::byte* address(const Piece& piece, std::uint32_t block) const;

  kernels::DeviceMemory* memory_;
  Arena arena_;
  Arena swap_arena_;
  std::byte* swap_ = nullptr;         // (num_swap_blocks_, swap_block_bytes_)
  std::size_t swap_block_bytes_ = 0;  // all pieces of a block
  std::vector<Piece> pieces_;
  std::uint32_t num_swap_blocks_ = 0;
  std::uint32_t first_layer_ = 0;
  std::uint32_t num_blocks_ = 0;
  std::uint32_t block_size_ = 0;
  std::vector<kernels::PagedKv> layers_;  // (layers of the slice)
};

}  // namespace troupe::model
