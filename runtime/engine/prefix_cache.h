#pragma once

#include <cstdint>
#include <limits>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe::engine {

// Which KV blocks hold the keys and values of which tokens: a radix tree in which each node is one full block, found
// by its parent and its block_size tokens. What has no parent is found by its salt as well, so that two salts never
// share a node. Nodes that no sequence holds are idle, and ordered by when they were last let go of.
//
// REQUIRES, of the caller: whoever holds a node holds its parent, and lets go of a node before its parent. Then no
// node is idle for longer than those below it, and the one idle for longest is a leaf.
//
// Tokens are compared, not hashed: no choice of prompts can make two of them be taken for one another, or make a
// search cost more than the logarithm of the nodes. There are at most as many nodes as blocks. Used by one thread.
class PrefixCache {
 public:
  using Node = std::uint32_t;
  static constexpr Node kNone = std::numeric_limits<Node>::max();

  PrefixCache(std::uint32_t num_blocks, std::uint32_t block_size);
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  // kNone when there is none. `parent`: kNone for the first block of a prompt. `tokens`: (block_size).
  Node find(Node parent, std::string_view salt, std::span<const std::uint32_t> tokens) const;

  // The node that find() gives, else a new one with that block, which somebody holds; and whether it is new.
  // REQUIRES: no node has that block.
  std::pair<Node, bool> insert(Node parent, std::string_view salt, std::span<const std::uint32_t> tokens,
                               std::uint32_t block);

  std::uint32_t block(Node node) const { return nodes_[node].block; }
  Node parent(Node node) const { return nodes_[node].parent; }
  std::span<const std::uint32_t> tokens(Node node) const {
    return std::span(tokens_).subspan(std::size_t{node} * block_size_, block_size_);
  }
  std::string_view salt(Node node) const { return nodes_[node].salt; }  // of a node without parent
  Node node_of(std::uint32_t block) const { return node_of_[block]; }   // kNone when it is in no node
  bool idle(Node node) const { return nodes_[node].older != kNone; }

  // A sequence holds a node that was idle, or the last one has let go of it.
  void hold(Node node);
  void let_go(Node node);

  // Another block with the same contents takes the place of an idle node's, and is held. Returns the old block.
  std::uint32_t replace_block(Node node, std::uint32_t block);

  // Takes the node that has been idle for longest, a leaf, out of the tree. Returns its block.
  // REQUIRES: idle_nodes() > 0.
  std::uint32_t evict();

  std::uint32_t size() const { return static_cast<std::uint32_t>(index_.size()); }
  std::uint32_t idle_nodes() const { return idle_; }

 private:
  struct Key {
    Node parent;
    std::string_view salt;
    std::span<const std::uint32_t> tokens;  // (block_size)
  };
  // The parent lies beside the node because most comparisons need no more.
  struct Place {
    Node parent;
    Node node;
  };
  struct Less {
    using is_transparent = void;
    const PrefixCache* cache;
    bool operator()(const Place& a, const Place& b) const {
      return a.parent != b.parent ? a.parent < b.parent : less(cache->key(a.node), cache->key(b.node));
    }
    bool operator()(const Place& a, const Key& b) const {
      return a.parent != b.parent ? a.parent < b.parent : less(cache->key(a.node), b);
    }
    bool operator()(const Key& a, const Place& b) const {
      return a.parent != b.parent ? a.parent < b.parent : less(a, cache->key(b.node));
    }
  };
  using Index = std::set<Place, Less>;
  struct Entry {
    std::uint32_t block = 0;
    Node parent = kNone;
    Node older = kNone;  // neighbours in the ring of idle nodes; kNone = not idle
    Node newer = kNone;
    std::string salt;       // of a node without parent
    Index::iterator place;  // of a node in the tree
  };

  Key key(Node node) const { return {.parent = parent(node), .salt = salt(node), .tokens = tokens(node)}; }
  static bool less(const Key& a, const Key& b);
  Node ring() const { return static_cast<Node>(node_of_.size()); }  // the entry that closes the ring of idle nodes

  const std::uint32_t block_size_;
  std::vector<Entry> nodes_;           // (num_blocks + 1)
  std::vector<std::uint32_t> tokens_;  // (num_blocks, block_size): of each node
  std::vector<Node> node_of_;          // (num_blocks)
  std::vector<Node> unused_;           // stack
  Index index_;
  std::uint32_t idle_ = 0;
};

}  // namespace troupe::engine
