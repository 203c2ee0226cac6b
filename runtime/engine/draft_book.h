#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "runtime/engine/sequence.h"
#include "runtime/engine/step_cost.h"
#include "schema/draft.capnp.h"

namespace troupe::engine {

// What a draft was told and asked, and what it answered (schema/draft.capnp). Two requests may be out: one that only
// tells it what sequences begin with, and after that one for guesses, for which its sequences wait, `awaits_guesses`,
// until they come or stop_waiting().
//
// Deterministic: times are arguments. Used by one thread.
class DraftBook {
 public:
  // Whether a request may be sent: one for guesses, or one that only tells.
  bool can_ask() const { return asks_.empty() || (asks_.size() == 1 && asks_.front().guesses == 0); }
  bool can_tell() const { return asks_.empty(); }

  // Whether the sequence was asked about as it is now: it has what guesses it can get.
  bool asked(const Sequence& sequence) const;

  // Tokens of the sequence that the draft was not told yet.
  std::uint32_t untold(const Sequence& sequence) const;

  // Whether the draft has room for the sequence, as far as is known.
  bool can_know(SequenceId id) const;

  // Fills a request that only tells. REQUIRES: can_tell(); there is a sequence, and none was told about.
  void tell(std::span<Sequence* const> sequences, std::uint64_t now_ns, schema::DraftRequest::Builder request);

  // Fills a request for `guesses` of each; the sequences wait from now on, at most until `deadline_ns`.
  // REQUIRES: can_ask(); guesses >= 1; there is a sequence, and none of them was asked() about.
  void ask(std::span<Sequence* const> sequences, std::uint32_t guesses, std::uint64_t now_ns, std::uint64_t deadline_ns,
           schema::DraftRequest::Builder request);

  // What the draft has answered to its oldest request; nobody waits for that any more. A reply that does not match the
  // request counts as lost, and its sequences are not asked about again.
  void take(schema::DraftReply::Reader reply, Sequences& sequences, std::uint64_t now_ns);

  // The requests were lost, or their draft. Another one knows nothing: it is told everything again.
  void lose(Sequences& sequences);

  // The time until which sequences wait; none do when empty.
  std::optional<std::uint64_t> deadline_ns() const;
  // They go on without guesses; what the draft answers later still counts for what it knows.
  void stop_waiting(Sequences& sequences);

  // The guesses for a sequence as it is now; empty when there are none.
  std::span<const std::uint32_t> guesses(const Sequence& sequence) const;

  void forget(SequenceId id);

  // Nanoseconds from request to reply by the guesses wanted.
  const StepCost& cost() const { return cost_; }

 private:
  struct Entry {
    std::uint32_t told = 0;          // tokens that the draft knows
    std::uint32_t asked_length = 0;  // of the sequence when it was asked about last; 0 = never
    bool no_room = false;
    std::vector<std::uint32_t> guesses;  // that follow asked_length tokens
  };
  struct Asked {
    SequenceId id;
    std::uint32_t start;  // of the tokens that the draft was told: [start, end)
    std::uint32_t end;
  };
  struct Ask {
    std::vector<Asked> sequences;
    std::uint32_t guesses = 0;
    std::uint32_t most_tokens = 0;  // told of one sequence
    std::uint64_t sent_ns = 0;
    std::uint64_t deadline_ns = 0;
    bool awaited = false;
  };

  void send(std::span<Sequence* const> sequences, Ask ask, schema::DraftRequest::Builder request);
  static void stop_waiting(Ask& ask, Sequences& sequences);

  std::unordered_map<SequenceId, Entry> entries_;
  std::vector<SequenceId> released_;  // the draft has yet to forget them
  std::deque<Ask> asks_;              // oldest first; see can_ask()
  StepCost cost_;
};

}  // namespace troupe::engine
