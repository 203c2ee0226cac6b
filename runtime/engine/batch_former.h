#pragma once

#include <cstdint>
#include <vector>

#include "runtime/engine/block_manager.h"
#include "runtime/engine/sequence.h"

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
  bool sample = false;
  std::uint32_t first_new_block = 0;  // index into its block table: from here on new to the shards
};

struct Batch {
  std::vector<BatchItem> items;
  std::vector<SequenceId> preempted;  // went back to waiting; the shards forget them
};

// The policy: who runs in the next step. First come, first served; running decodes before prefills before
// newcomers; prompts in pieces; a sequence that is in a step whose result is not back, or that awaits guesses, is left
// out. With several pipeline stages a step takes only its share of the sequences, so that every slot gets work.
//
// A newcomer enters only when blocks for all its known tokens are free. It begins behind the longest prefix that is
// in the pages already, unless the log-probabilities of its prompt are wanted: those must be computed. While a running
// sequence computes the very block that would come next, it waits for that: a prompt that many send at a time is
// computed once.
//
// When a decode finds no free block, the youngest sequence behind it that is not in flight is preempted: its blocks are
// freed, and its prompt and generated tokens are computed anew later, except for what is still in the pages. The oldest
// sequence can thus always go on.
class BatchFormer {
 public:
  BatchFormer(const BatchLimits& limits, BlockManager& blocks);

  // Chooses, allocates blocks and moves phases; the batch is empty when nobody can run now. Marks nothing as in
  // flight, and moves `computed` only of newcomers, behind their cached prefix. `unconfirmed_releases`: sequences that
  // the shards may still know, because the step that releases them is not back.
  Batch form(Sequences& sequences, std::size_t unconfirmed_releases);

  // Sequences that run at a time; the shards have room for twice as many (ShardSequences).
  std::size_t max_running() const;

 private:
  void add_decodes(Sequences& sequences, Batch& batch);
  void add_prefills(Sequences& sequences, Batch& batch);
  void add_newcomers(Sequences& sequences, std::size_t unconfirmed_releases, Batch& batch);
  bool is_about_to_be_published(const Sequences& sequences, const Sequence& next, std::size_t index) const;
  void add(Sequence& sequence, bool starts, std::uint32_t first_new_block, Batch& batch);
  bool make_room(Sequences& sequences, Sequence& sequence, Batch& batch);

  const BatchLimits limits_;
  BlockManager& blocks_;
  std::uint32_t tokens_left_ = 0;     // of the batch being formed
  std::uint32_t sequences_left_ = 0;  // of the batch being formed
};

}  // namespace troupe::engine
