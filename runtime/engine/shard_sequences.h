#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "runtime/base/block_copy.h"
#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/engine/sampler.h"
#include "schema/step.capnp.h"

namespace troupe::engine {

struct StepLists;

struct ShardSequencesOptions {
  std::uint32_t num_blocks = 0;       // KV blocks of the shard
  std::uint32_t num_swap_blocks = 0;  // beside the pages
  std::uint32_t block_size = 0;       // tokens of a block
  std::uint32_t max_model_len = 0;
  std::uint32_t max_batch_tokens = 0;
  std::uint32_t max_batch_sequences = 0;
  std::uint32_t max_sequences = 0;  // that run at a time: max_batch_sequences * pipeline stages
  std::uint32_t vocab_size = 0;
};

// Of one shard: the one that runs, and one that is begun before the tokens of that are known.
inline constexpr std::size_t kMostStepsInFlight = 2;

// One step as the kernels want it: flat, every index checked against the shard's pages and vocabulary.
struct FlatStep {
  static constexpr std::uint32_t kKnown = 0xffffffff;

  std::vector<std::uint32_t> tokens;              // (rows); 0 where it is not known yet
  std::vector<std::uint32_t> token_sources;       // (rows), or empty when all tokens are known: which of the
                                                  // logits_rows of the step before draws the token; kKnown
  std::vector<std::uint32_t> positions;           // (rows)
  std::vector<std::uint32_t> slots;               // (rows): block id * block_size + offset within the block
  std::vector<std::uint32_t> row_starts;          // (sequences + 1)
  std::vector<std::uint32_t> context_lengths;     // (sequences): tokens in the pages, this step's included
  std::vector<std::uint32_t> block_tables;        // flat block ids
  std::vector<std::uint32_t> block_table_starts;  // (sequences + 1)
  std::vector<std::uint32_t> logits_rows;         // ascending rows whose logits the last stage computes
  std::vector<BlockCopy> copies;                  // made in this order, before anything is computed
};

// One of FlatStep::logits_rows, for whoever draws where the logits are. Of a row with a guess, the token is the one
// that follows if the guesses before it are right.
struct RowToDraw {
  const SamplingParameters* parameters = nullptr;
  std::span<const std::uint32_t> history;  // up to the row's own token
  std::uint32_t prompt_length = 0;         // of these
  bool draws = true;                       // else `token` is rated
  std::uint32_t token = 0;
};

// What a shard remembers of the sequences it works for, fed by Steps alone: block tables, and tokens and sampling
// parameters for those ranks that sample. Any Step, however wrong, is either applied or refused with an error;
// the arrays of flat() never point outside the shard's pages. After a refusal the sequences of that step are in no
// defined state until they are released or started again. Used by one thread; allocates nothing once its lists
// have grown to the largest step.
//
// The step begun last and the one before it can be sampled, by their numbers (Fence.step). A device that draws tokens
// by itself may be given a step before the tokens of the one before are here: whatever of them goes on in it is left
// open (FlatStep.token_sources), and filled in when sample() has drawn them. Where they are here already, such a step
// is like any other.
class ShardSequences {
 public:
  ShardSequences(const ShardSequencesOptions& options, const Limits& limits);

  // Applies released, starts and the block-table delta, and lays the step out flat.
  // Errors: lists that do not fit together, sizes beyond the options, unknown or repeated sequences, positions
  // that do not continue the sequence, blocks or tokens out of range, a sampledToken where the step before draws none.
  Result<void> begin_step(schema::Step::Reader step);

  // The step begun last. Valid until the next begin_step.
  const FlatStep& flat() const { return newest().flat; }

  // On the last stage, for a step: draws a token from, or rates the prompt token after, some of its rows. A row with a
  // guess is only drawn from when the row before drew that very guess: every token is the one that would have been
  // drawn without guesses. `logits`: (rows, vocab_size), of its flat().logits_rows[first_row, first_row + rows). The
  // pieces come in order, as large as the caller has memory for, until every row was there. Errors: neither the step
  // begun last nor the one before it, logits of the wrong size or out of order, a row from which nothing can be drawn,
  // or which comes after a token that was never drawn.
  Result<void> sample(std::uint64_t step, std::size_t first_row, std::span<const float> logits);

  // The same for the step begun last where somebody else draws: row `row` of flat().logits_rows, until the next
  // begin_step, ...
  RowToDraw row_to_draw(std::size_t row) const;
  // ... and what was drawn from all of them, by row, of any step that can be sampled. What a row has whose guess was
  // wrong is left. The contents of `drawn` are exchanged for lists of earlier steps.
  // Errors: another step, or a token beyond the vocabulary: nothing could be drawn from the row. REQUIRES: a token of
  // every row
  Result<void> take_drawn(std::uint64_t step, std::span<RatedToken> drawn);

  // Whether rows of the step, which is to be begun next, are drawn from by what tokens came before, and one of those is
  // sampledToken: then whoever else draws has to know it first. A step that is wrong may be answered either way.
  bool needs_drawn(schema::Step::Reader step);

  // Fills sequences, tokens, logprobs and promptLogprobs with what was made of all rows of a step.
  // Errors: another step, or rows are missing.
  Result<void> write_result(std::uint64_t step, schema::StepResult::Builder result);

  // Forgets every sequence: a new epoch begins.
  void clear();

  std::size_t size() const { return active_.size(); }

 private:
  struct Entry {
    std::uint64_t sequence = 0;
    std::uint32_t prompt_length = 0;
    SamplingParameters sampling;
    std::vector<std::uint32_t> tokens;       // of the positions in the pages
    std::uint32_t guesses = 0;               // the last so many of them: it may go on in front of those
    std::vector<std::uint32_t> block_table;  // of the tokens in the pages, and blocks reserved for later ones
    std::uint64_t last_step = 0;             // count of begin_step that touched it last
    std::size_t last_item = 0;               // its place in the batch of that
  };
  // One sequence of a step.
  struct BatchItem {
    std::uint64_t sequence = 0;
    std::uint32_t first_row = 0;  // of its logits rows
    std::uint32_t first_position = 0;
    std::uint32_t rated = 0;        // the first so many of its logits rows rate the prompt token after them
    std::uint32_t first_guess = 0;  // position
    std::uint32_t rows = 0;         // after those that rate: what may be drawn from, one and one for each guess
    std::uint32_t drawn = 0;        // tokens, from the first so many of them
  };
  // What becomes of one of a step's logits rows.
  struct RowTask {
    const Entry* entry = nullptr;
    std::size_t item = 0;      // of the batch
    std::uint32_t length = 0;  // tokens up to the row's own
    bool sample = false;       // draw a token; otherwise rate prompt_token
    bool guess = false;        // draw only if the row before drew this row's token
    std::uint32_t prompt_token = 0;
  };
  // A token of an entry, its last one, that a row of the step before has yet to draw.
  struct Awaited {
    Entry* entry = nullptr;
    std::uint32_t row = 0;  // of that step's tasks
  };
  struct OpenStep {
    std::optional<std::uint64_t> number;  // of its fence; nothing before the first step, and after a refusal
    FlatStep flat;
    std::vector<BatchItem> batch;
    std::vector<RowTask> tasks;        // (logits_rows)
    std::vector<Awaited> awaited;      // its tokens that are not known yet
    std::size_t rows_done = 0;         // of tasks
    bool failed = false;               // from one of them nothing could be drawn
    std::vector<RatedToken> outcomes;  // (at least rows_done); their lists keep the memory
  };

  static void reset(OpenStep& open);
  OpenStep& newest() { return open_[steps_ % kMostStepsInFlight]; }
  const OpenStep& newest() const { return open_[steps_ % kMostStepsInFlight]; }
  OpenStep& before() { return open_[(steps_ + kMostStepsInFlight - 1) % kMostStepsInFlight]; }
  OpenStep* find_open(std::uint64_t step);
  std::vector<std::unique_ptr<Entry>>::iterator lower_bound(std::uint64_t sequence);
  Entry* find(std::uint64_t sequence);
  void release(std::uint64_t sequence);
  Result<void> apply(schema::Step::Reader step);
  Result<void> take_copies(schema::Step::Reader step);
  Result<void> start(schema::SequenceStart::Reader start);
  std::string_view append(const StepLists& lists, unsigned index, unsigned first_token, unsigned first_block);
  std::string_view append_drawn(Entry& entry, std::uint64_t last_step);
  void lay_out(Entry& entry, std::uint32_t count, std::uint32_t next_token, bool sample);
  static bool comes_true(const OpenStep& open, std::size_t row);
  static Result<void> check_history(const RowTask& task);
  Result<void> sample_row(const RowTask& task, std::span<const float> logits, RatedToken& outcome);
  void fill_in(const OpenStep& drawn);

  // Steps may fail on their way, and with them their releases: then old and new sequences meet here.
  std::size_t capacity() const { return std::size_t{2} * options_.max_sequences; }

  const ShardSequencesOptions options_;
  const Limits limits_;
  std::vector<std::unique_ptr<Entry>> active_;  // ascending by sequence
  std::vector<std::unique_ptr<Entry>> spare_;   // their lists keep the memory
  // Released with the step begun last: rows of the step before it may still look at them.
  std::vector<std::unique_ptr<Entry>> released_;
  std::array<OpenStep, kMostStepsInFlight> open_;
  std::uint64_t steps_ = 0;  // that were begun
  Sampler sampler_;
};

}  // namespace troupe::engine
