#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe::text {

// A set of byte strings, each with a number, for finding the longest one that a text continues with.
class Trie {
 public:
  struct Match {
    std::size_t bytes;
    std::size_t value;
  };

  // A string that is already there keeps its value. REQUIRES: not empty
  void insert(std::string_view key, std::size_t value);

  // The longest key that `text` begins with.
  std::optional<Match> longest_prefix(std::string_view text) const;

 private:
  static constexpr std::size_t kNoValue = ~std::size_t{0};

  struct Node {
    std::vector<std::pair<unsigned char, std::uint32_t>> children;
    std::size_t value = kNoValue;

    std::uint32_t child(unsigned char byte) const;  // 0 (the root, never a child) when there is none
  };

  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::array<std::uint32_t, 256> roots_{};  // children of the root: most texts end the search here
};

}  // namespace troupe::text
