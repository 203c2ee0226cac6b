#include "runtime/engine/block_manager.h"

#include <cassert>

namespace troupe::engine {

BlockManager::BlockManager(std::uint32_t num_blocks, std::uint32_t block_size)
    : block_size_(block_size), references_(num_blocks, 0) {
  assert(num_blocks > 0 && block_size > 0);
  free_.reserve(num_blocks);
  for (std::uint32_t block = num_blocks; block > 0; --block) free_.push_back(block - 1);
}

bool BlockManager::grow(std::uint64_t sequence, std::uint64_t tokens) {
  const std::size_t held = table(sequence).size();
  const std::size_t needed = blocks_for(tokens);
  if (needed <= held) return true;
  if (needed - held > free_.size()) return false;
  std::vector<std::uint32_t>& table = tables_[sequence];
  while (table.size() < needed) {
    const std::uint32_t block = free_.back();
    free_.pop_back();
    references_[block] = 1;
    table.push_back(block);
  }
  return true;
}

void BlockManager::share(std::uint64_t sequence, std::uint64_t other, std::uint32_t count) {
  const std::span<const std::uint32_t> prefix = table(other).first(count);
  for (const std::uint32_t block : prefix) ++references_[block];
  const bool inserted = tables_.emplace(sequence, std::vector(prefix.begin(), prefix.end())).second;
  assert(inserted);
  static_cast<void>(inserted);
}

void BlockManager::release(std::uint64_t sequence) {
  const auto found = tables_.find(sequence);
  if (found == tables_.end()) return;
  for (const std::uint32_t block : found->second) {
    if (--references_[block] == 0) free_.push_back(block);
  }
  tables_.erase(found);
}

std::span<const std::uint32_t> BlockManager::table(std::uint64_t sequence) const {
  const auto found = tables_.find(sequence);
  return found == tables_.end() ? std::span<const std::uint32_t>() : found->second;
}

}  // namespace troupe::engine
