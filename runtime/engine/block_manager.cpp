#include "runtime/engine/block_manager.h"

#include <cassert>

namespace troupe::engine {

BlockManager::BlockManager(std::uint32_t num_blocks, std::uint32_t block_size, std::uint64_t max_idle_cached)
    : block_size_(block_size),
      max_idle_cached_(max_idle_cached),
      references_(num_blocks, 0),
      cache_(num_blocks, block_size) {
  assert(num_blocks > 0 && block_size > 0);
  free_.reserve(num_blocks);
  for (std::uint32_t block = num_blocks; block > 0; --block) free_.push_back(block - 1);
}

bool BlockManager::grow(std::uint64_t sequence, std::uint64_t tokens) {
  const std::size_t held = table(sequence).size();
  const std::size_t needed = blocks_for(tokens);
  if (needed <= held) return true;
  if (needed - held > free_blocks()) return false;
  std::vector<std::uint32_t>& blocks = tables_[sequence].blocks;
  while (blocks.size() < needed) blocks.push_back(take());
  return true;
}

std::uint32_t BlockManager::take() {
  if (free_.empty()) free_.push_back(cache_.evict());
  const std::uint32_t block = free_.back();
  free_.pop_back();
  references_[block] = 1;
  return block;
}

CachedPrefix BlockManager::find_prefix(std::string_view salt, std::span<const std::uint32_t> tokens) const {
  CachedPrefix prefix;
  PrefixCache::Node node = PrefixCache::kNone;
  for (std::size_t end = block_size_; end < tokens.size(); end += block_size_) {
    node = cache_.find(node, salt, tokens.subspan(end - block_size_, block_size_));
    if (node == PrefixCache::kNone) break;
    prefix.blocks.push_back(cache_.block(node));
    if (cache_.idle(node)) ++prefix.idle;
  }
  return prefix;
}

void BlockManager::adopt(std::uint64_t sequence, const CachedPrefix& prefix) {
  if (prefix.blocks.empty()) return;
  for (const std::uint32_t block : prefix.blocks) {
    if (references_[block]++ == 0) cache_.hold(cache_.node_of(block));
  }
  const bool inserted =
      tables_.emplace(sequence, Table{prefix.blocks, static_cast<std::uint32_t>(prefix.blocks.size())}).second;
  assert(inserted);
  static_cast<void>(inserted);
}

void BlockManager::publish(std::uint64_t sequence, std::string_view salt, std::span<const std::uint32_t> tokens) {
  if (!caches()) return;
  Table& table = tables_.at(sequence);
  PrefixCache::Node parent =
      table.published == 0 ? PrefixCache::kNone : cache_.node_of(table.blocks[table.published - 1]);
  for (; table.published < tokens.size() / block_size_; ++table.published) {
    const std::uint32_t block = table.blocks[table.published];
    const auto contents = tokens.subspan(std::size_t{table.published} * block_size_, block_size_);
    const auto [node, is_new] = cache_.insert(parent, salt, contents, block);
    if (!is_new) {
      if (!cache_.idle(node)) return;
      free_.push_back(cache_.replace_block(node, block));
    }
    parent = node;
  }
}

std::uint32_t BlockManager::published(std::uint64_t sequence) const {
  const auto found = tables_.find(sequence);
  return found == tables_.end() ? 0 : found->second.published;
}

void BlockManager::release(std::uint64_t sequence) {
  const auto found = tables_.find(sequence);
  if (found == tables_.end()) return;
  // From the end: a node is let go of before its parent.
  const std::vector<std::uint32_t>& blocks = found->second.blocks;
  for (auto block = blocks.rbegin(); block != blocks.rend(); ++block) {
    if (--references_[*block] > 0) continue;
    const PrefixCache::Node node = cache_.node_of(*block);
    if (node == PrefixCache::kNone) {
      free_.push_back(*block);
    } else {
      cache_.let_go(node);
    }
  }
  tables_.erase(found);
  evict_down_to(max_idle_cached_);
}

void BlockManager::forget_published() {
  assert(tables_.empty());
  evict_down_to(0);
}

void BlockManager::evict_down_to(std::uint64_t most) {
  while (cache_.idle_nodes() > most) free_.push_back(cache_.evict());
}

std::span<const std::uint32_t> BlockManager::table(std::uint64_t sequence) const {
  const auto found = tables_.find(sequence);
  return found == tables_.end() ? std::span<const std::uint32_t>() : found->second.blocks;
}

}  // namespace troupe::engine
