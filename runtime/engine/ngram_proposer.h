#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace troupe::engine {

// What may follow a sequence: what followed its last tokens when they occurred before in it, prompt included (prompt
// lookup decoding, Saxena 2023; inference with reference, Yang et al. 2023, arXiv 2304.04487). Text that quotes,
// edits or repeats itself is guessed well, and nothing is computed for it.
//
// A hash table holds where each run of kMinMatch to kMaxMatch tokens ended last. Where the table is crowded
// the oldest entry near by makes room, and an entry is compared token by token before it is believed: no choice of
// tokens makes a call slow or a match wrong. One object a sequence. Deterministic. Used by one thread.
class NgramProposer {
 public:
  static constexpr std::uint32_t kMinMatch = 2;
  static constexpr std::uint32_t kMaxMatch = 5;

  struct Proposal {
    std::vector<std::uint32_t> tokens;  // that may come next, in order; empty when nothing matches
    std::uint32_t matched = 0;          // so many of the last tokens had occurred before
  };

  // At most `most` tokens. `tokens`: the whole sequence; those of the last call are its beginning. A long prompt is
  // read over several calls, which propose nothing until it is.
  Proposal propose(std::span<const std::uint32_t> tokens, std::uint32_t most);

  // The two halves of it, for whoever may not change anything by asking: reads a piece of what is not read yet; and
  // says what follows from what was read, which may be two tokens behind, or nothing where it is more.
  void read_on(std::span<const std::uint32_t> tokens);
  Proposal peek(std::span<const std::uint32_t> tokens, std::uint32_t most) const;

 private:
  struct Slot {
    std::uint32_t hash = 0;
    std::uint32_t end = 0;  // length of the sequence up to the run's last token; 0 = empty
  };

  void read(std::span<const std::uint32_t> tokens, std::uint32_t end);
  Proposal best_match(std::span<const std::uint32_t> tokens, std::uint32_t most) const;
  std::uint32_t find(std::span<const std::uint32_t> tokens, std::uint32_t matched) const;
  std::size_t slot_of(std::uint32_t hash) const;
  void make_room(std::uint32_t tokens);

  std::vector<Slot> slots_;  // a power of two of them
  std::uint32_t read_ = 0;   // runs that end within the first so many tokens are in the table
};

}  // namespace troupe::engine
