#include "runtime/text/trie.h"

#include <algorithm>

namespace troupe::text {

std::uint32_t Trie::Node::child(unsigned char byte) const {
  const auto found = std::lower_bound(children.begin(), children.end(), byte,
                                      [](const auto& child, unsigned char wanted) { return child.first < wanted; });
  return found != children.end() && found->first == byte ? found->second : 0;
}

void Trie::insert(std::string_view key, std::size_t value) {
  std::uint32_t node = 0;
  for (std::size_t i = 0; i < key.size(); ++i) {
    const auto byte = static_cast<unsigned char>(key[i]);
    std::uint32_t next = i == 0 ? roots_[byte] : nodes_[node].child(byte);
    if (next == 0) {
      next = static_cast<std::uint32_t>(nodes_.size());
      nodes_.emplace_back();
      if (i == 0) {
        roots_[byte] = next;
      } else {
        auto& children = nodes_[node].children;
        children.insert(std::lower_bound(children.begin(), children.end(), std::pair(byte, std::uint32_t{0})),
                        {byte, next});
      }
    }
    node = next;
  }
  if (nodes_[node].value == kNoValue) nodes_[node].value = value;
}

std::optional<Trie::Match> Trie::longest_prefix(std::string_view text) const {
  std::optional<Match> longest;
  if (text.empty()) return longest;
  std::uint32_t node = roots_[static_cast<unsigned char>(text[0])];
  for (std::size_t i = 1; node != 0; ++i) {
    if (nodes_[node].value != kNoValue) longest = Match{i, nodes_[node].value};
    if (i == text.size()) break;
    node = nodes_[node].child(static_cast<unsigned char>(text[i]));
  }
  return longest;
}

}  // namespace troupe::text
