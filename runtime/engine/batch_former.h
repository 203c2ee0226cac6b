#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "runtime/base/block_copy.h"
#include "runtime/engine/block_manager.h"
#include "runtime/engine/sequence.h"
#include "runtime/engine/step_budget.h"
#include "runtime/engine/swap_space.h"

namespace troupe::engine {

struct BatchLimits {
  std::uint32_t max_batch_tokens = 0;
  std::uint32_t max_batch_sequences = 0;
  std::uint32_t pipeline_stages = 1;  // steps in flight at a time
};

struct BatchItem {
  Sequence* sequence = nullptr;
  std::uint32_t count = 0;             // tokens computed in this step, from sequence->computed on
  std::vector<std::uint32_t> guesses;  // of the tokens after those; computed and checked in this step as well
  bool starts = false;                 // its block table is empty on the shards: the step tells them of it
  bool swapped_in = false;             // it goes on with what was kept of it beside the pages
  bool ahead = false;                  // the one token is what the step in flight draws
  bool sample = false;
  std::uint32_t first_new_block = 0;  // index into its block table: from here on new to the shards
};

struct Batch {
  std::vector<BatchItem> items;
  std::vector<SequenceId> preempted;    // went back to waiting; the shards forget them
  std::vector<SequenceId> swapped_out;  // of them, those of which something is kept beside the pages
  std::vector<BlockCopy> copies;        // made in this order, before anything is computed
};

// The policy: who runs in the next step. Running decodes before prefills before newcomers; among those that run by
// priority, then first come, first served; newcomers as Sequences::next() says, and before prefills of less urgent
// priorities; prompts in pieces, and beside decodes only as much of them as the StepBudget allows; a sequence that is
// in a step whose result is not back, or that awaits guesses, is left out. With several pipeline stages a step takes
// only its share of the sequences, so that every slot gets work.
//
// A newcomer enters only when blocks for all its known tokens are free. It begins behind the longest prefix that is
// in the pages already, unless the log-probabilities of its prompt are wanted: those must be computed. While a running
// sequence computes the very block that would come next, or the end of the same prompt, it waits for that: a prompt
// that many send at a time is computed once. What a running sequence has of the block after that prefix is copied where
// that is predicted to take less time than computing it: of several answers to one prompt, each but the first computes
// one token of it.
//
// When a decode finds no free block, a sequence that ranks behind it and is not in flight is preempted, the last in
// rank first: its blocks are freed, and its prompt and generated tokens are computed anew later, except for what is
// still in the pages. Where copying is predicted to take less time than that, and there is room beside the pages, what
// it has of its own is copied there, and back when it goes on. The first in rank, the oldest of the most urgent
// priority, can thus always go on. A newcomer for whom there is no slot or there are no blocks preempts too, but only
// what has a less urgent priority than its own: equals never take anything from each other in turns.
class BatchFormer {
 public:
  // Holds references to the three.
  BatchFormer(const BatchLimits& limits, BlockManager& blocks, SwapSpace& swap, const StepBudget& budget);

  // Chooses, allocates blocks and moves phases; the batch is empty when nobody can run now. Marks nothing as in
  // flight, and moves `computed` only of newcomers, behind what they need not compute. `unconfirmed_releases`:
  // sequences that the shards may still know, because the step that releases them is not back.
  Batch form(Sequences& sequences, std::size_t unconfirmed_releases);

  // Whether a step may be formed before the tokens of the one in flight are known, and it is worth it: everything that
  // runs can go on so, lest the batch falls apart into two that take turns; and nobody waits who could begin, now or
  // where somebody leaves, because only what form() chooses has room for prompts. REQUIRES: one stage, one step in
  // flight.
  bool can_go_ahead(const Sequences& sequences, std::size_t unconfirmed_releases) const;
  // That step: the next token of everything that does not end with the step in flight, for all that is known. Nobody
  // is preempted for it. REQUIRES: can_go_ahead(), and nothing has changed since
  Batch form_ahead(Sequences& sequences);

  // Sequences that run at a time; the shards have room for twice as many (ShardSequences).
  std::size_t max_running() const;

 private:
  void let_urgent_in(Sequences& sequences, std::size_t unconfirmed_releases, Batch& batch);
  void add_decodes(const std::vector<Sequence*>& ranked, Sequences& sequences, Batch& batch);
  std::size_t add_prefills(const std::vector<Sequence*>& ranked, const Sequences& sequences, Batch& batch);
  void add_newcomers(Sequences& sequences, std::size_t unconfirmed_releases, Batch& batch);
  std::uint32_t prefill_budget(const std::vector<Sequence*>& ranked, std::size_t queued, const Batch& batch) const;
  bool has_slot(const Sequences& sequences) const { return sequences.running.size() < max_running(); }
  bool shards_have_room(const Sequences& sequences, std::size_t unconfirmed_releases) const;
  bool could_enter(const Sequences& sequences, const Sequence& next, std::size_t unconfirmed_releases) const;
  CachedPrefix cached_prefix(const Sequence& next) const;
  std::optional<CachedPrefix> prefix_of(const Sequences& sequences, const Sequence& next) const;
  bool is_being_computed(const Sequences& sequences, const Sequence& next, std::size_t index) const;
  std::uint32_t free_blocks_for(const Sequence& next, const CachedPrefix& prefix) const;
  std::vector<Sequence*> less_urgent_to_go(Sequences& sequences, const Sequence& next,
                                           const CachedPrefix& prefix) const;
  Sequence& enter(const Sequence& next, const CachedPrefix& prefix, Sequences& sequences);
  void add(Sequence& sequence, std::uint32_t most_tokens, std::uint32_t first_new_block, Batch& batch);
  void add_prefill(Sequence& sequence, const Sequences& sequences, Batch& batch);
  bool swap_in(Sequence& sequence, Batch& batch);
  void copy_shared_part(Sequence& sequence, const Sequences& sequences, Batch& batch);
  void swap_out(const Sequence& victim, const Sequences& sequences, Batch& batch);
  bool copying_pays(std::uint32_t blocks, std::uint32_t tokens, const Sequences& sequences) const;
  bool make_room(Sequences& sequences, Sequence& sequence, Batch& batch);
  void preempt(Sequence& victim, Sequences& sequences, Batch& batch);

  const BatchLimits limits_;
  BlockManager& blocks_;
  SwapSpace& swap_;
  const StepBudget& budget_;
  // Of the batch being formed:
  std::uint32_t tokens_left_ = 0;
  std::uint32_t prefill_left_ = 0;  // tokens of prompts
  std::uint32_t sequences_left_ = 0;
};

}  // namespace troupe::engine
