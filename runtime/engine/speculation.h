#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "runtime/engine/batch_former.h"
#include "runtime/engine/block_manager.h"
#include "runtime/engine/draft_book.h"
#include "runtime/engine/guess_length.h"
#include "runtime/engine/ngram_proposer.h"
#include "runtime/engine/step_cost.h"

namespace troupe::engine {

struct SpeculationCounts {
  std::uint64_t proposed = 0;  // guesses sent with steps whose results are back
  std::uint64_t accepted = 0;  // of them, that came true
  std::uint64_t runs = 0;      // times that a sequence had guesses in a step
};

// Speculative decoding (Leviathan et al. 2023, arXiv 2211.17192): decodes are given guesses of their next tokens, which
// the model checks in one step. What is sampled stays what it would be without them (schema/step.capnp); this class
// only decides what to guess and how much of it, by how often a sequence's guesses came true lately and by what a wider
// step costs. Where guesses do not pay it gives none, but for a single one from time to time, to see whether they
// would.
//
// Deterministic: times are arguments. Used by one thread.
class Speculation {
 public:
  // `max_guesses`: of a sequence in a step; 0 = none ever. `uses_draft`: the draft guesses, not the text so far.
  Speculation(std::uint32_t max_guesses, bool uses_draft) : max_guesses_(max_guesses), uses_draft_(uses_draft) {}

  // Fills a request to the draft about decodes that no step in flight works on; they wait for its guesses, but no
  // longer than those are worth. Or one that tells it of prompts which the model is about to read, so that both read
  // them at the same time. False, and `request` untouched, when there is nothing to ask or to tell now.
  bool ask_draft(Sequences& sequences, schema::DraftRequest::Builder request, std::uint64_t now_ns);
  DraftBook& draft() { return draft_; }
  const DraftBook& draft() const { return draft_; }

  // Gives guesses to decodes of the batch, at most `rows_left` in all, and blocks for them out of the free ones: nobody
  // is preempted for a guess.
  void add_guesses(Batch& batch, std::uint32_t rows_left, BlockManager& blocks);

  // Guesses need to know the token before them. Whether add_guesses() would give some to what runs if the tokens of the
  // step in flight were known, as far as can be told from those before: then it is worth waiting for that step. Where a
  // draft guesses it is always, unless nobody wants guesses. Of steps of at most `most_rows` rows.
  bool would_guess(const Sequences& sequences, std::uint32_t most_rows) const;
  // A step was formed ahead: it has no guesses, but counts for when to try one.
  void go_ahead(const Batch& batch);

  // Of the guesses that a sequence was given last, the first `accepted` came true; `guesses` of them were put to the
  // test. REQUIRES: it was given some, and is not forgotten.
  void learn(SequenceId id, std::uint32_t guesses, std::uint32_t accepted);

  // A step of so many rows that decoded alone took so long, from its sending to its result.
  void step_took(std::uint32_t rows, std::uint64_t ns);

  void forget(SequenceId id);

  const SpeculationCounts& counts() const { return counts_; }

 private:
  // Guesses of one kind come true about equally often: a longer match with what came before is a better one. The last
  // kind is the draft's.
  static constexpr std::size_t kDraftKind = NgramProposer::kMaxMatch - NgramProposer::kMinMatch + 1;
  static constexpr std::size_t kKinds = kDraftKind + 1;

  // Counts steps in which there could have been guesses that did not seem to pay, until one is tried; the longer the
  // rarer, unless it comes true.
  class Patience {
   public:
    bool is_over();
    bool is_nearly_over() const { return steps_ + 1 >= most_; }
    void pass() { ++steps_; }
    void guess_came_true() { most_ = kLeast; }

   private:
    static constexpr std::uint32_t kLeast = 16;
    static constexpr std::uint32_t kMost = 128;
    std::uint32_t steps_ = 0;
    std::uint32_t most_ = kLeast;
  };

  struct State {
    NgramProposer ngram;
    std::array<Acceptance, kKinds> acceptance;
    std::size_t kind = 0;  // of the guesses it was given last
    Patience patience;
  };

  struct Guessed {
    BatchItem* item = nullptr;
    State* state = nullptr;
    std::vector<std::uint32_t> tokens;
  };
  // A request to the draft that pays.
  struct DraftPlan {
    std::uint32_t guesses = 0;  // 0: none does
    double worth_ns = 0;        // for how long they are worth waiting
  };

  std::uint32_t most_guesses(const Sequence& sequence) const;
  double acceptance(const State& state, std::size_t kind) const;
  std::vector<std::uint32_t> propose(const Sequence& sequence, State& state);
  std::optional<GuessCandidate> candidate_ahead(const Sequence& sequence) const;
  bool tell_draft(Sequences& sequences, schema::DraftRequest::Builder request, std::uint64_t now_ns);
  DraftPlan plan_draft(std::span<const GuessCandidate> candidates) const;
  void give(const Guessed& guessed, std::uint32_t length, BlockManager& blocks);

  const std::uint32_t max_guesses_;
  const bool uses_draft_;
  DraftBook draft_;
  Patience draft_patience_;
  std::unordered_map<SequenceId, State> states_;
  std::array<Acceptance, kKinds> overall_;  // of all sequences: what is expected of a new one
  StepCost cost_;
  SpeculationCounts counts_;
};

}  // namespace troupe::engine
