#include "runtime/model/kv_pages.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <iterator>
#include <limits>
#include <string>
#include <utility>

#include "runtime/base/log.h"

namespace troupe::model {
namespace {

constexpr std::array<std::pair<std::string_view, kernels::DType>, 5> kNames = {{
    {"f32", kernels::DType::kF32},
    {"f16", kernels::DType::kF16},
    {"bf16", kernels::DType::kBF16},
    {"int8", kernels::DType::kI8},
    {"fp8", kernels::DType::kE4M3},
}};

}  // namespace

Result<kernels::DType> parse_kv_dtype(std::string_view name) {
  const auto known = std::find_if(kNames.begin(), kNames.end(), [&](const auto& entry) { return entry.first == name; });
  if (known != kNames.end()) return known->second;
  return invalid_argument(std::string("KV pages are f32, f16, bf16, int8 or fp8, not '").append(printable(name)) + "'",
                          "kv_dtype");
}

std::string_view kv_dtype_name(kernels::DType dtype) {
  const auto known =
      std::find_if(kNames.begin(), kNames.end(), [&](const auto& entry) { return entry.second == dtype; });
  return known->first;
}

Result<KvPages> KvPages::create(const ModelConfig& config, const Slice& slice, std::uint32_t num_blocks,
                                std::uint32_t block_size, kernels::DType kv_dtype, std::uint32_t num_swap_blocks,
                                kernels::DeviceMemory& memory) {
  if (std::none_of(kNames.begin(), kNames.end(), [&](const auto& entry) { return entry.second == kv_dtype; })) {
    return invalid_argument("KV pages are stored as F32, F16, BF16, I8 or E4M3", "kv_dtype");
  }
  if (num_blocks == 0)
    return invalid_argument("a shard needs at least one KV block; give it more kv_memory", "kv_memory");
  if (block_size == 0) return invalid_argument("a KV block holds at least one token", "block_size");
  // Slots are 32-bit numbers.
  if (std::uint64_t{num_blocks} * block_size > std::numeric_limits<std::uint32_t>::max()) {
    return invalid_argument(std::to_string(num_blocks) + " KV blocks of " + std::to_string(block_size) +
                                " tokens are more than 2^32 tokens; give it less kv_memory",
                            "kv_memory");
  }
  const std::uint64_t kv_heads = rank_shape(config, slice).kv_heads.size();
  const std::uint64_t tokens = std::uint64_t{num_blocks} * block_size;
  const std::uint64_t piece = Arena::rounded(kv_heads * config.head_dim * tokens * kernels::size_of(kv_dtype));
  const std::uint64_t scales =
      kernels::has_page_scales(kv_dtype) ? Arena::rounded(kv_heads * tokens * sizeof(float)) : 0;
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(piece + scales, 2 * std::uint64_t{slice.layer_count()}, &bytes)) {
    return invalid_argument("the KV pages of " + std::to_string(num_blocks) + " blocks overflow 64 bits", "kv_memory");
  }
  if (std::uint64_t{num_blocks} + num_swap_blocks > std::numeric_limits<std::uint32_t>::max()) {
    return invalid_argument(
        std::to_string(num_swap_blocks) + " KV blocks beside the pages are too many; give it less swap_memory",
        "swap_memory");
  }
  std::uint64_t swap_bytes = 0;
  if (__builtin_mul_overflow(std::uint64_t{num_swap_blocks}, bytes_per_block(config, slice, block_size, kv_dtype),
                             &swap_bytes)) {
    return invalid_argument("the " + std::to_string(num_swap_blocks) + " KV blocks beside the pages overflow 64 bits",
                            "swap_memory");
  }

  KvPages pages(memory);
  TROUPE_ASSIGN_OR_RETURN(pages.arena_, Arena::create(bytes, "KV pages (limit kv_memory)", memory));
  pages.first_layer_ = slice.first_layer;
  pages.num_blocks_ = num_blocks;
  pages.block_size_ = block_size;
  for (std::uint32_t layer = 0; layer < slice.layer_count(); ++layer) {
    kernels::PagedKv kv;
    kv.keys = pages.arena_.take(piece);
    kv.values = pages.arena_.take(piece);
    if (scales != 0) {
      kv.key_scales = static_cast<float*>(pages.arena_.take(scales));
      kv.value_scales = static_cast<float*>(pages.arena_.take(scales));
    }
    kv.dtype = kv_dtype;
    kv.num_blocks = num_blocks;
    kv.block_size = block_size;
    kv.num_kv_heads = kv_heads;
    kv.head_dim = config.head_dim;
    pages.layers_.push_back(kv);
    const std::uint64_t block_tokens = kv_heads * block_size;
    for (void* const data : {kv.keys, kv.values}) {
      pages.add_piece(data, block_tokens * config.head_dim * kernels::size_of(kv_dtype));
    }
    if (scales == 0) continue;
    for (void* const data : {kv.key_scales, kv.value_scales}) pages.add_piece(data, block_tokens * sizeof(float));
  }
  pages.num_swap_blocks_ = num_swap_blocks;
  TROUPE_ASSIGN_OR_RETURN(pages.swap_arena_,
                          Arena::create(swap_bytes, "KV blocks that make room (limit swap_memory)", memory.pinned()));
  if (swap_bytes > 0) pages.swap_ = static_cast<std::byte*>(pages.swap_arena_.take(swap_bytes));
  return pages;
}

void KvPages::add_piece(void* data, std::uint64_t block_bytes) {
  pieces_.push_back({static_cast<std::byte*>(data), block_bytes, swap_block_bytes_});
  swap_block_bytes_ += block_bytes;
}

std::byte* KvPages::address(const Piece& piece, std::uint32_t block) const {
  if (block < num_blocks_) return piece.data + block * piece.block_bytes;
  return swap_ + (block - num_blocks_) * swap_block_bytes_ + piece.swap_offset;
}

Result<void> KvPages::copy(std::span<const BlockCopy> copies) {
  bool is_done = true;  // what was queued so far
  for (const BlockCopy& copy : copies) {
    const bool leaves = copy.to >= num_blocks_, comes_back = copy.from >= num_blocks_;
    // The host copies at once, the device later.
    if (leaves && comes_back && !std::exchange(is_done, true)) TROUPE_RETURN_IF_ERROR(memory_->synchronize());
    for (const Piece& piece : pieces_) {
      std::byte* const to = address(piece, copy.to);
      const std::byte* const from = address(piece, copy.from);
      if (leaves && comes_back) {
        std::memcpy(to, from, piece.block_bytes);
        continue;
      }
      is_done = false;
      if (leaves) {
        memory_->copy_out(to, from, piece.block_bytes);
      } else if (comes_back) {
        memory_->copy_in(to, from, piece.block_bytes);
      } else {
        memory_->copy(to, from, piece.block_bytes);
      }
    }
  }
  if (is_done) return {};
  return memory_->synchronize();
}

}  // namespace troupe::model
