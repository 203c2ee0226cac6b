#pragma once

#include <cstdint>

namespace troupe {

// The keys and values of one KV block, in every layer that a shard has, are copied to another block. Blocks below
// num_blocks are pages; those from num_blocks on lie in memory beside the pages (limit swap_memory).
struct BlockCopy {
  std::uint32_t from = 0;
  std::uint32_t to = 0;

  bool operator==(const BlockCopy&) const = default;
};

}  // namespace troupe
