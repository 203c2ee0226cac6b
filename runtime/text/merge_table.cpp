#include "runtime/text/merge_table.h"

#include <bit>

namespace troupe::text {
namespace {

std::uint64_t pair_of(std::uint32_t left, std::uint32_t right) { return std::uint64_t{left} << 32 | right; }

}  // namespace

void MergeTable::reserve(std::size_t count) {
  slots_.assign(std::bit_ceil(count * 2 + 2), Slot());
  shift_ = 64 - static_cast<unsigned>(std::countr_zero(slots_.size()));
}

std::size_t MergeTable::slot_of(std::uint64_t pair) const {
  // Fibonacci hashing (Knuth, volume 3, section 6.4): the high bits of a product depend on all bits of the pair.
  std::size_t slot = (pair ^ pair >> 29) * 0x9E3779B97F4A7C15u >> shift_;
  while (slots_[slot].pair != pair && slots_[slot].pair != kEmpty) slot = (slot + 1) & (slots_.size() - 1);
  return slot;
}

void MergeTable::insert(std::uint32_t left, std::uint32_t right, Merge merge) {
  const std::uint64_t pair = pair_of(left, right);
  slots_[slot_of(pair)] = {pair, merge};
}

const Merge* MergeTable::find(std::uint32_t left, std::uint32_t right) const {
  const std::uint64_t pair = pair_of(left, right);
  const Slot& slot = slots_[slot_of(pair)];
  return slot.pair == pair ? &slot.merge : nullptr;
}

}  // namespace troupe::text
