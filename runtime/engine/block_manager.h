#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "runtime/engine/prefix_cache.h"

namespace troupe::engine {

// The beginning of a prompt that is in the pages already.
struct CachedPrefix {
  std::vector<std::uint32_t> blocks;  // in token order
  std::uint32_t idle = 0;             // of them, that no sequence holds: they count as free
};

// Accounts for the KV blocks of a replica: which sequences hold which, and which are free. The pages themselves lie
// in the shards; all shards of a replica use the same numbering. Blocks are counted by reference, so that
// sequences can share a common prefix.
//
// A full block whose keys and values are known to be in the pages can be published: later sequences with the same
// beginning and salt find it. It outlives its holders, but is free for whoever needs a block: what nobody has held
// for longest goes first. Used by one thread.
class BlockManager {
 public:
  // `max_idle_cached`: published blocks to keep without holders; 0 = no prefix is ever found.
  BlockManager(std::uint32_t num_blocks, std::uint32_t block_size, std::uint64_t max_idle_cached);

  std::uint32_t num_blocks() const { return static_cast<std::uint32_t>(references_.size()); }
  std::uint32_t block_size() const { return block_size_; }
  bool caches() const { return max_idle_cached_ > 0; }
  std::uint32_t free_blocks() const { return static_cast<std::uint32_t>(free_.size()) + cache_.idle_nodes(); }
  std::uint64_t capacity_tokens() const { return std::uint64_t{num_blocks()} * block_size_; }
  std::uint32_t blocks_for(std::uint64_t tokens) const {
    return static_cast<std::uint32_t>((tokens + block_size_ - 1) / block_size_);
  }

  // Appends free blocks to the sequence's table until it holds `tokens` tokens. False, and nothing changed, when
  // there are too few.
  bool grow(std::uint64_t sequence, std::uint64_t tokens);

  // The longest published beginning of `tokens` that leaves at least one of them: its logits are still wanted.
  CachedPrefix find_prefix(std::string_view salt, std::span<const std::uint32_t> tokens) const;

  // Starts a sequence with what find_prefix() found. REQUIRES: it has no table, and nothing has changed since.
  void adopt(std::uint64_t sequence, const CachedPrefix& prefix);

  // The keys and values of the sequence's first `tokens.size()` tokens are in the pages: publishes the full blocks
  // among them. Stops at one whose contents another sequence holds in a block of its own: what comes after it
  // has to wait until that one lets go.
  void publish(std::uint64_t sequence, std::string_view salt, std::span<const std::uint32_t> tokens);

  // Of its table's first blocks, how many are published.
  std::uint32_t published(std::uint64_t sequence) const;

  // Gives the sequence's table back; blocks that nobody else holds become free. No table is no error.
  void release(std::uint64_t sequence);

  // The pages hold nothing any more. REQUIRES: no sequence has a table.
  void forget_published();

  // In token order; empty when there is none. Valid until the next non-const call.
  std::span<const std::uint32_t> table(std::uint64_t sequence) const;

  std::uint32_t references(std::uint32_t block) const { return references_[block]; }
  const PrefixCache& cache() const { return cache_; }

 private:
  struct Table {
    std::vector<std::uint32_t> blocks;
    std::uint32_t published = 0;  // the first so many of `blocks` are nodes of the cache, each the child of the last
  };

  std::uint32_t take();
  void evict_down_to(std::uint64_t most);

  const std::uint32_t block_size_;
  const std::uint64_t max_idle_cached_;
  std::vector<std::uint32_t> references_;  // (num_blocks): tables that hold the block
  std::vector<std::uint32_t> free_;        // stack: the block freed last is warm, and is used next
  PrefixCache cache_;
  std::unordered_map<std::uint64_t, Table> tables_;
};

}  // namespace troupe::engine
