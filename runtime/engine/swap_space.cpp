#include "runtime/engine/swap_space.h"

#include <cassert>

namespace troupe::engine {

SwapSpace::SwapSpace(std::uint32_t first_block, std::uint32_t num_blocks) : num_blocks_(num_blocks) {
  free_.reserve(num_blocks);
  for (std::uint32_t i = num_blocks; i > 0; --i) free_.push_back(first_block + i - 1);
}

const SwapSpace::Kept& SwapSpace::keep(SequenceId sequence, std::uint32_t first, std::uint32_t count,
                                       std::uint32_t tokens) {
  assert(count > 0 && count <= free_.size() && !kept_.contains(sequence));
  Kept& kept = kept_[sequence];
  kept.first = first;
  kept.tokens = tokens;
  kept.blocks.assign(free_.end() - count, free_.end());
  free_.resize(free_.size() - count);
  return kept;
}

void SwapSpace::settle(SequenceId sequence) {
  if (const auto found = kept_.find(sequence); found != kept_.end()) found->second.settled = true;
}

const SwapSpace::Kept* SwapSpace::find(SequenceId sequence) const {
  const auto found = kept_.find(sequence);
  return found == kept_.end() ? nullptr : &found->second;
}

void SwapSpace::release(SequenceId sequence) {
  const auto found = kept_.find(sequence);
  if (found == kept_.end()) return;
  free_.insert(free_.end(), found->second.blocks.begin(), found->second.blocks.end());
  kept_.erase(found);
}

void SwapSpace::clear() {
  for (const auto& [sequence, kept] : kept_) free_.insert(free_.end(), kept.blocks.begin(), kept.blocks.end());
  kept_.clear();
}

}  // namespace troupe::engine
