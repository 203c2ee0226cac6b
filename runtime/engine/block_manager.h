#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace troupe::engine {

// Accounts for the KV blocks of a replica: which sequence holds which, and which are free. The pages themselves lie
// in the shards; all shards of a replica use the same numbering. Blocks are counted by reference, so that
// sequences can share a common prefix. Used by one thread.
class BlockManager {
 public:
  BlockManager(std::uint32_t num_blocks, std::uint32_t block_size);

  std::uint32_t num_blocks() const { return static_cast<std::uint32_t>(references_.size()); }
  std::uint32_t block_size() const { return block_size_; }
  std::uint32_t free_blocks() const { return static_cast<std::uint32_t>(free_.size()); }
  std::uint64_t capacity_tokens() const { return std::uint64_t{num_blocks()} * block_size_; }
  std::uint32_t blocks_for(std::uint64_t tokens) const {
    return static_cast<std::uint32_t>((tokens + block_size_ - 1) / block_size_);
  }

  // Appends free blocks to the sequence's table until it holds `tokens` tokens. False, and nothing changed, when
  // there are too few.
  bool grow(std::uint64_t sequence, std::uint64_t tokens);

  // Starts a sequence with the leading `count` blocks of another's table, holding them together.
  // REQUIRES: `sequence` has no table; `other` holds at least `count` blocks.
  void share(std::uint64_t sequence, std::uint64_t other, std::uint32_t count);

  // Gives the sequence's table back; blocks that nobody else holds become free. No table is no error.
  void release(std::uint64_t sequence);

  // In token order; empty when there is none. Valid until the next non-const call.
  std::span<const std::uint32_t> table(std::uint64_t sequence) const;

  std::uint32_t references(std::uint32_t block) const { return references_[block]; }

 private:
  std::uint32_t block_size_;
  std::vector<std::uint32_t> references_;  // (num_blocks): tables that hold the block
  std::vector<std::uint32_t> free_;        // stack: the block freed last is warm, and is used next
  std::unordered_map<std::uint64_t, std::vector<std::uint32_t>> tables_;
};

}  // namespace troupe::engine
