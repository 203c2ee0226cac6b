#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/engine/admission.h"
#include "runtime/engine/batch_former.h"
#include "runtime/engine/block_manager.h"
#include "runtime/engine/deadlines.h"
#include "runtime/engine/delta.h"
#include "runtime/engine/drain_rate.h"
#include "runtime/engine/engine_options.h"
#include "runtime/engine/in_flight_step.h"
#include "runtime/engine/sequence.h"
#include "runtime/engine/speculation.h"
#include "runtime/engine/step_budget.h"
#include "runtime/engine/swap_space.h"
#include "schema/step.capnp.h"

namespace troupe::engine {

// Whether an error of a step is that of a member of the replica, whom a new epoch replaces, and not of what was asked.
bool is_of_a_member(const Error& error);

// Steps that a sequence may lose to members that fail.
inline constexpr std::uint32_t kMostLostSteps = 3;

struct EngineCounts {
  std::uint64_t waiting = 0;  // now
  std::uint64_t running = 0;  // now
  std::uint64_t steps = 0;
  std::uint64_t steps_ahead = 0;       // of them, formed before the tokens of the one before were known
  std::uint64_t prompt_tokens = 0;     // computed, recomputation included
  std::uint64_t generated_tokens = 0;  // reported
  std::uint64_t prefix_queries = 0;    // tokens of sequences that began and were looked for in the prefix cache
  std::uint64_t prefix_hits = 0;       // of them, that were there
  std::uint64_t preemptions = 0;
  std::uint64_t swaps_out = 0;  // of them, with keys and values kept beside the pages
  std::uint64_t swaps_in = 0;   // sequences that went on with those
  std::uint64_t finished = 0;
  std::uint64_t failed = 0;
  std::uint64_t expired = 0;  // ended by their deadline
  std::uint64_t cancelled = 0;
  SpeculationCounts speculation;
};

// One replica's requests: admit, form a step, apply its result. Deterministic: no clock, no threads; time comes as
// an argument. Used by one thread.
class Engine {
 public:
  // REQUIRES: num_blocks, block_size, max_model_len, max_batch_tokens, max_batch_sequences, pipeline_stages >= 1; with
  // lookahead pipeline_stages == 1.
  explicit Engine(const EngineOptions& options);

  // Queues a request of `owner`. maxTokens is clipped to what the model and the KV pages can hold.
  // Errors: a parameter out of range, a prompt that can never fit, a full queue, a request id still in use, a deadline
  // before which the first token is not to be expected.
  Result<void> admit(std::uint64_t owner, schema::Generate::Reader generate, std::uint64_t now_ns);

  // Forgets a request, or all of an owner; unknown ones are no error. One that is in flight keeps its blocks until
  // that step is back, because the shards may still write to them.
  void cancel(std::uint64_t owner, std::uint64_t request);
  void cancel_all(std::uint64_t owner);

  // Fills the next step, fence included. False, and `step` untouched, when every slot is taken or nobody can run. With
  // lookahead one more may be formed, behind the one in flight, where that is worth it.
  bool form_step(schema::Step::Builder step, std::uint64_t now_ns);

  // The next request to the draft; its sequences take part in no step until take_guesses(), or until
  // stop_waiting_for_draft() at the latest. False, and `request` untouched, when there is none.
  bool form_draft_request(schema::DraftRequest::Builder request, std::uint64_t now_ns);
  void take_guesses(schema::DraftReply::Reader reply, std::uint64_t now_ns);
  void lose_draft() { speculation_.draft().lose(sequences_); }
  // When to stop waiting for it; empty when nobody waits.
  std::optional<std::uint64_t> draft_deadline_ns() const { return speculation_.draft().deadline_ns(); }
  void stop_waiting_for_draft() { speculation_.draft().stop_waiting(sequences_); }

  // What a result, which has come at `now_ns`, means for the owners. A result of another epoch or of no step in flight
  // gives nothing. One that does not match its step fails that step's sequences, and with it a step that goes on from
  // what it was to draw; so does a failed one, unless it is a member that failed (is_of_a_member): then they are
  // computed anew, as by fail_in_flight().
  std::vector<Delta> apply(schema::StepResult::Reader result, std::uint64_t now_ns);

  // Fails what its deadline has passed, and what waits and can no longer give its first token before it.
  std::vector<Delta> expire(std::uint64_t now_ns);
  // When expire() is to be called next.
  std::optional<std::uint64_t> next_expiry_ns() const { return deadlines_.next_ns(); }

  // Gives up every step in flight, because a member of the replica failed; late results will be dropped. The sequences
  // wait to be computed anew, and go on with the same tokens; but one that has lost kMostLostSteps steps fails, lest it
  // is what ends the members.
  std::vector<Delta> fail_in_flight(const Error& error);

  // Fails what waits since before `admitted_before_ns`.
  std::vector<Delta> fail_waiting(const Error& error, std::uint64_t admitted_before_ns);

  // Fails everything that waits or runs.
  std::vector<Delta> fail_all(const Error& error);

  // The replica's next life: its shards know no sequence. Gives up the steps in flight as fail_in_flight() does; all
  // other sequences are computed anew, and no prefix is known any more. REQUIRES: epoch is not one of an earlier life.
  std::vector<Delta> reset_for_epoch(std::uint32_t replica, std::uint64_t epoch, const Error& error);

  bool idle() const { return sequences_.waiting.empty() && sequences_.running.empty(); }
  std::size_t steps_in_flight() const { return in_flight_.size(); }
  std::optional<std::uint64_t> oldest_waiting_ns() const;
  SequenceId newest_sequence() const { return next_sequence_ - 1; }  // 0 = none yet
  Backlog backlog() const;
  QueueRoom queue_room() const { return admission_.room(backlog()); }
  EngineCounts counts() const;
  const BlockManager& blocks() const { return blocks_; }
  const SwapSpace& swap_space() const { return swap_; }

 private:
  // The tokens of a result that belong to one sequence: [first, first + count).
  struct Run {
    unsigned first = 0;
    unsigned count = 0;
  };

  // Sets the sequence's deadline. The error: its first token will hardly come before it.
  Result<void> take_deadline(std::uint32_t deadline_ms, Sequence& sequence);
  // Whether a step may be formed behind the one in flight now.
  bool can_go_ahead() const;
  std::size_t unconfirmed_releases() const;
  void launch(const Batch& batch, std::uint64_t now_ns);
  // What the times of a step that is back tell of the next ones.
  void learn(const InFlightStep& flight, schema::StepResult::Reader result, std::uint64_t took_ns);
  Result<void> check_result(const InFlightStep& flight, schema::StepResult::Reader result);
  Result<void> collect_prompt_logprobs(const InFlightStep& flight, schema::StepResult::Reader result);
  // Appends a run as far as the sequence goes; `run` becomes that part of it.
  void append(Sequence& sequence, capnp::List<std::uint32_t>::Reader tokens, Run& run) const;
  bool ends(const Sequence& sequence) const;
  bool has_stopped(const Sequence& sequence) const;
  std::optional<Delta> report(Sequence& sequence, capnp::List<schema::TokenLogprobs>::Reader logprobs, Run run);
  // Its sequences fail, or start again where they may.
  std::vector<Delta> fail_step(const InFlightStep& flight, const Error& error, bool may_start_again);
  // The same of that step, and of those that go on from what it was to draw.
  std::vector<Delta> fail_from(std::deque<InFlightStep>::iterator step, const Error& error, bool may_start_again);
  void start_again(Sequence& sequence);
  void cancel(Sequence& sequence);
  // Nobody hears of it any more; its blocks become free, its slot too, when no step works on them.
  void drop(Sequence& sequence);
  Delta fail(Sequence& sequence, const Error& error);
  // Its blocks become free; the shards are told with the next step if they know it.
  void forget(Sequence& sequence);

  const EngineOptions options_;
  BlockManager blocks_;
  SwapSpace swap_;
  StepBudget step_budget_;
  BatchFormer former_;
  Sequences sequences_;
  Admission admission_;
  DrainRate drain_rate_;
  Deadlines deadlines_;  // of the waiting, when they are to begin at the latest
  Speculation speculation_;
  std::map<std::pair<std::uint64_t, std::uint64_t>, SequenceId> by_request_;  // (owner, request)
  std::deque<InFlightStep> in_flight_;                                        // oldest first
  std::vector<SequenceId> released_;                                          // the shards have yet to forget them
  SequenceId next_sequence_ = 1;
  std::uint32_t replica_ = 0;
  std::uint64_t epoch_ = 0;
  std::uint64_t next_step_ = 1;
  std::uint64_t last_result_ns_ = 0;
  EngineCounts counts_;
};

}  // namespace troupe::engine
