#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace troupe::text {

// What a pair of adjacent symbols becomes, and when: the lowest rank first.
struct Merge {
  std::uint32_t rank;
  std::uint32_t token;
};

// Merges by their pair of tokens: a hash table with linear probing, because encoding spends most of its time here
// and a lookup must cost one cache line.
class MergeTable {
 public:
  // Room for `count` merges. REQUIRES: called once, before insert().
  void reserve(std::size_t count);
  // The last of several merges of the same pair counts. REQUIRES: at most `count` different pairs.
  void insert(std::uint32_t left, std::uint32_t right, Merge merge);
  // nullptr when the two do not merge.
  const Merge* find(std::uint32_t left, std::uint32_t right) const;

 private:
  static constexpr std::uint64_t kEmpty = ~std::uint64_t{0};  // ids are far smaller

  struct Slot {
    std::uint64_t pair = kEmpty;
    Merge merge{};
  };

  std::size_t slot_of(std::uint64_t pair) const;  // where it is, or would be put

  std::vector<Slot> slots_;  // a power of two, at most half of them used
  unsigned shift_ = 0;
};

}  // namespace troupe::text
