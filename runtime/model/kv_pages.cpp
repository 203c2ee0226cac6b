#include "runtime/model/kv_pages.h"

#include <limits>
#include <string>

namespace troupe::model {

Result<KvPages> KvPages::create(const ModelConfig& config, const Slice& slice, std::uint32_t num_blocks,
                                std::uint32_t block_size, kernels::DType kv_dtype) {
  if (kv_dtype != kernels::DType::kF32 && kv_dtype != kernels::DType::kF16 && kv_dtype != kernels::DType::kBF16 &&
      kv_dtype != kernels::DType::kI8) {
    return invalid_argument("KV pages are stored as F32, F16, BF16 or I8", "kv_dtype");
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
  const std::uint64_t scales = kv_dtype == kernels::DType::kI8 ? Arena::rounded(kv_heads * tokens * sizeof(float)) : 0;
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(piece + scales, 2 * std::uint64_t{slice.layer_count()}, &bytes)) {
    return invalid_argument("the KV pages of " + std::to_string(num_blocks) + " blocks overflow 64 bits", "kv_memory");
  }

  KvPages pages;
  TROUPE_ASSIGN_OR_RETURN(pages.arena_, Arena::create(bytes, "KV pages (limit kv_memory)"));
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
  }
  return pages;
}

}  // namespace troupe::model
