#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "runtime/engine/waiting_order.h"

namespace troupe::engine {

// Accounts for the blocks beside the KV pages, where the keys and values of preempted sequences wait until those go on.
// Their numbers follow those of the pages. Used by one thread.
class SwapSpace {
 public:
  struct Kept {
    std::vector<std::uint32_t> blocks;
    std::uint32_t first = 0;   // index in the sequence's block table of what blocks[0] holds; what lay before it was
                               // shared with others, and is to be found in the pages
    std::uint32_t tokens = 0;  // of the sequence, from its first one on
    bool settled = false;      // the step that copies them is back
  };

  // Numbers [first_block, first_block + num_blocks).
  SwapSpace(std::uint32_t first_block, std::uint32_t num_blocks);

  std::uint32_t num_blocks() const { return num_blocks_; }
  std::uint32_t free_blocks() const { return static_cast<std::uint32_t>(free_.size()); }

  // Takes `count` blocks for the sequence. REQUIRES: so many are free, and nothing is kept of it.
  const Kept& keep(SequenceId sequence, std::uint32_t first, std::uint32_t count, std::uint32_t tokens);

  void settle(SequenceId sequence);             // no error if nothing is kept of it
  const Kept* find(SequenceId sequence) const;  // nullptr when there is nothing
  void release(SequenceId sequence);            // no error either
  void clear();

 private:
  std::uint32_t num_blocks_;
  std::vector<std::uint32_t> free_;  // stack
  std::unordered_map<SequenceId, Kept> kept_;
};

}  // namespace troupe::engine
