#include "runtime/engine/prefix_cache.h"

#include <algorithm>
#include <cassert>

namespace troupe::engine {

PrefixCache::PrefixCache(std::uint32_t num_blocks, std::uint32_t block_size)
    : block_size_(block_size),
      nodes_(std::size_t{num_blocks} + 1),
      tokens_(std::size_t{num_blocks} * block_size),
      node_of_(num_blocks, kNone),
      index_(Less{this}) {
  assert(num_blocks < kNone && block_size > 0);
  unused_.reserve(num_blocks);
  for (Node node = num_blocks; node > 0; --node) unused_.push_back(node - 1);
  nodes_[ring()].older = nodes_[ring()].newer = ring();
}

PrefixCache::Node PrefixCache::find(Node parent, std::string_view salt, std::span<const std::uint32_t> tokens) const {
  const auto found = index_.find(Key{parent, parent == kNone ? salt : std::string_view(), tokens});
  return found == index_.end() ? kNone : found->node;
}

std::pair<PrefixCache::Node, bool> PrefixCache::insert(Node parent, std::string_view salt,
                                                       std::span<const std::uint32_t> tokens, std::uint32_t block) {
  assert(tokens.size() == block_size_ && node_of_[block] == kNone);
  const Node node = unused_.back();
  Entry& entry = nodes_[node];
  entry.block = block;
  entry.parent = parent;
  entry.salt = parent == kNone ? salt : std::string_view();
  std::copy(tokens.begin(), tokens.end(), tokens_.begin() + std::ptrdiff_t{node} * block_size_);
  const auto [place, is_new] = index_.insert({parent, node});
  if (!is_new) return {place->node, false};
  unused_.pop_back();
  entry.place = place;
  node_of_[block] = node;
  return {node, true};
}

void PrefixCache::hold(Node node) {
  Entry& entry = nodes_[node];
  assert(idle(node));
  nodes_[entry.older].newer = entry.newer;
  nodes_[entry.newer].older = entry.older;
  entry.older = entry.newer = kNone;
  --idle_;
}

void PrefixCache::let_go(Node node) {
  Entry& entry = nodes_[node];
  assert(!idle(node));
  entry.older = nodes_[ring()].older;
  entry.newer = ring();
  nodes_[entry.older].newer = node;
  nodes_[ring()].older = node;
  ++idle_;
}

std::uint32_t PrefixCache::replace_block(Node node, std::uint32_t block) {
  assert(node_of_[block] == kNone);
  hold(node);
  const std::uint32_t old = nodes_[node].block;
  node_of_[old] = kNone;
  node_of_[block] = node;
  nodes_[node].block = block;
  return old;
}

std::uint32_t PrefixCache::evict() {
  assert(idle_ > 0);
  const Node node = nodes_[ring()].newer;
  hold(node);
  Entry& entry = nodes_[node];
  index_.erase(entry.place);
  entry.salt.clear();
  entry.salt.shrink_to_fit();
  node_of_[entry.block] = kNone;
  unused_.push_back(node);
  return entry.block;
}

bool PrefixCache::less(const Key& a, const Key& b) {
  if (a.parent != b.parent) return a.parent < b.parent;
  const auto order =
      std::lexicographical_compare_three_way(a.tokens.begin(), a.tokens.end(), b.tokens.begin(), b.tokens.end());
  return order != 0 ? order < 0 : a.salt < b.salt;
}

}  // namespace troupe::engine
