#include "runtime/engine/engine.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <numeric>
#include <string>
#include <utility>

#include "runtime/engine/error_info.h"
#include "runtime/engine/request.h"
#include "runtime/engine/step_writer.h"

namespace troupe::engine {

namespace {

std::uint32_t rows_of(const Batch& batch) {
  return std::accumulate(batch.items.begin(), batch.items.end(), std::uint32_t{0},
                         [](std::uint32_t sum, const BatchItem& item) {
                           return sum + item.count + static_cast<std::uint32_t>(item.guesses.size());
                         });
}

bool decodes(const BatchItem& item) { return item.ahead || item.sequence->phase == Phase::kDecode; }

}  // namespace

Engine::Engine(const EngineOptions& options)
    : options_(options),
      blocks_(options.num_blocks, options.block_size, options.limits.prefix_cache_blocks),
      swap_(options.num_blocks, options.num_swap_blocks),
      step_budget_(options.limits.decode_stall_percent),
      former_({.max_batch_tokens = options.max_batch_tokens,
               .max_batch_sequences = options.max_batch_sequences,
               .pipeline_stages = options.pipeline_stages},
              blocks_, swap_, step_budget_),
      sequences_(options.limits.idle_tenants),
      admission_(options.limits),
      speculation_(options.max_guesses, options.uses_draft) {
  assert(options.max_model_len > 0);
  assert(!options.lookahead || options.pipeline_stages == 1);
}

Result<void> Engine::admit(std::uint64_t owner, schema::Generate::Reader generate, std::uint64_t now_ns) {
  const std::pair key(owner, generate.getRequest());
  if (by_request_.contains(key)) {
    return invalid_argument("request " + std::to_string(key.second) + " is still in use; take another number",
                            "request");
  }
  TROUPE_RETURN_IF_ERROR(admission_.admit({.owner = owner,
                                           .request = key.second,
                                           .siblings = generate.getSiblings(),
                                           .sibling_tokens = generate.getSiblingTokens()},
                                          backlog()));
  TROUPE_ASSIGN_OR_RETURN(Sequence sequence, read_request(generate, options_));
  sequence.id = next_sequence_;
  sequence.owner = owner;
  sequence.request = key.second;
  sequence.admitted_ns = now_ns;
  if (generate.getDeadlineMs() > 0) TROUPE_RETURN_IF_ERROR(take_deadline(generate.getDeadlineMs(), sequence));
  by_request_[key] = next_sequence_++;
  sequences_.add(std::move(sequence));
  return {};
}

Backlog Engine::backlog() const {
  Backlog backlog{.requests = sequences_.waiting.size(),
                  .tokens = sequences_.order.tokens(),
                  .tokens_per_s = drain_rate_.tokens_per_s()};
  if (backlog.tokens_per_s > 0) return backlog;
  // Nobody has had to wait yet: prompts go as fast as they are computed.
  const double ns = step_budget_.prefill_ns(options_.max_batch_tokens, 0, options_.max_batch_tokens);
  if (ns > 0) backlog.tokens_per_s = options_.max_batch_tokens * options_.pipeline_stages / ns * 1e9;
  return backlog;
}

Result<void> Engine::take_deadline(std::uint32_t deadline_ms, Sequence& sequence) {
  const std::uint64_t span_ns = std::uint64_t{deadline_ms} * 1'000'000;
  const auto cached = blocks_.find_prefix(sequence.cache_salt, sequence.tokens).blocks.size() * blocks_.block_size();
  const auto decodes =
      static_cast<std::uint32_t>(std::min<std::size_t>(sequences_.running.size(), options_.max_batch_sequences));
  const double prefill_ns = step_budget_.prefill_ns(sequence.length() - cached, decodes, options_.max_batch_tokens);
  const double rate = backlog().tokens_per_s;
  const auto before = static_cast<double>(sequences_.order.tokens_before(sequence.priority, sequence.tenant));
  const double wait_ns = rate > 0 ? before / rate * 1e9 : 0;
  if (wait_ns + prefill_ns > static_cast<double>(span_ns)) {
    return deadline_exceeded("the first token is to be expected in about " +
                                 std::to_string(std::llround(std::min((wait_ns + prefill_ns) / 1e6, 1e15))) +
                                 " ms, after the timeout of " + std::to_string(deadline_ms) +
                                 " ms; allow more time or ask again later",
                             "timeout");
  }
  sequence.deadline_ns = sequence.admitted_ns + span_ns;
  deadlines_.set(sequence.id, *sequence.deadline_ns - static_cast<std::uint64_t>(prefill_ns));
  return {};
}

void Engine::cancel(std::uint64_t owner, std::uint64_t request) {
  const auto found = by_request_.find({owner, request});
  if (found != by_request_.end()) cancel(*sequences_.find(found->second));
}

void Engine::cancel_all(std::uint64_t owner) {
  for (auto next = by_request_.lower_bound({owner, 0}); next != by_request_.end() && next->first.first == owner;) {
    Sequence& sequence = *sequences_.find(next->second);
    ++next;  // cancelling erases the entry
    cancel(sequence);
  }
  admission_.forget(owner);
}

void Engine::cancel(Sequence& sequence) {
  ++counts_.cancelled;
  drop(sequence);
}

void Engine::drop(Sequence& sequence) {
  if (!sequence.dropped) {
    sequence.dropped = true;
    deadlines_.erase(sequence.id);
    by_request_.erase({sequence.owner, sequence.request});  // the owner may use its number again
  }
  if (!sequence.in_flight()) forget(sequence);
}

bool Engine::form_step(schema::Step::Builder step, std::uint64_t now_ns) {
  const bool ahead = in_flight_.size() >= options_.pipeline_stages;
  if (ahead && !can_go_ahead()) return false;
  Batch batch = ahead ? former_.form_ahead(sequences_) : former_.form(sequences_, unconfirmed_releases());
  // A sequence is only preempted to make room for one that then runs.
  assert(!batch.items.empty() || batch.preempted.empty());
  if (batch.items.empty()) return false;
  counts_.preemptions += batch.preempted.size();
  counts_.swaps_out += batch.swapped_out.size();
  released_.insert(released_.end(), batch.preempted.begin(), batch.preempted.end());
  if (ahead) {
    ++counts_.steps_ahead;
    speculation_.go_ahead(batch);
  } else {
    speculation_.add_guesses(batch, options_.max_batch_tokens - rows_of(batch), blocks_);
  }
  auto fence = step.initFence();
  fence.setReplica(replica_);
  fence.setEpoch(epoch_);
  fence.setStep(next_step_);
  write_step(batch, blocks_, released_, step);
  launch(batch, now_ns);
  return true;
}

bool Engine::can_go_ahead() const {
  return options_.lookahead && in_flight_.size() == 1 && former_.can_go_ahead(sequences_, unconfirmed_releases()) &&
         !speculation_.would_guess(sequences_, options_.max_batch_tokens);
}

std::size_t Engine::unconfirmed_releases() const {
  std::size_t released = 0;
  for (const InFlightStep& flight : in_flight_) released += flight.released.size();
  return released;
}

bool Engine::form_draft_request(schema::DraftRequest::Builder request, std::uint64_t now_ns) {
  return speculation_.ask_draft(sequences_, request, now_ns);
}

void Engine::take_guesses(schema::DraftReply::Reader reply, std::uint64_t now_ns) {
  speculation_.draft().take(reply, sequences_, now_ns);
}

void Engine::launch(const Batch& batch, std::uint64_t now_ns) {
  InFlightStep flight;
  flight.step = next_step_++;
  flight.ahead = batch.items.front().ahead;
  if (std::all_of(batch.items.begin(), batch.items.end(), decodes)) flight.rows = rows_of(batch);
  flight.released = std::exchange(released_, {});
  flight.swapped_out = batch.swapped_out;
  flight.copies = static_cast<std::uint32_t>(batch.copies.size());
  flight.sent_ns = now_ns;
  std::uint64_t begun_tokens = 0;
  flight.items.reserve(batch.items.size());
  for (const BatchItem& item : batch.items) {
    Sequence& sequence = *item.sequence;
    if (!sequence.first_step_ns) {
      sequence.first_step_ns = now_ns;
      sequence.cached_tokens = sequence.computed;
    }
    counts_.swaps_in += item.swapped_in ? 1 : 0;
    if (item.starts && !item.swapped_in && blocks_.caches() && sequence.prompt_logprobs_complete) {
      counts_.prefix_queries += sequence.length();
      counts_.prefix_hits += sequence.computed;
    }
    if (sequence.computed < sequence.prompt_length) {
      counts_.prompt_tokens += std::min(item.count, sequence.prompt_length - sequence.computed);
    }
    (decodes(item) ? flight.work.decode_tokens : flight.work.prefill_tokens) +=
        item.count + static_cast<std::uint32_t>(item.guesses.size());
    if (item.starts) begun_tokens += sequence.length();
    sequence.computed += item.count;
    ++sequence.steps_in_flight;
    sequence.draws_one = item.sample && item.guesses.empty();
    sequence.on_shards = true;
    flight.items.push_back({sequence.id, sequence.computed, item.sample, item.guesses});
  }
  in_flight_.push_back(std::move(flight));
  drain_rate_.step(now_ns, begun_tokens, !sequences_.waiting.empty());
  ++counts_.steps;
}

std::vector<Delta> Engine::apply(schema::StepResult::Reader result, std::uint64_t now_ns) {
  const auto fence = result.getFence();
  if (fence.getReplica() != replica_ || fence.getEpoch() != epoch_) return {};
  const auto found = std::find_if(in_flight_.begin(), in_flight_.end(),
                                  [&](const InFlightStep& flight) { return flight.step == fence.getStep(); });
  if (found == in_flight_.end()) return {};
  if (result.getFailed()) {
    const Error error = read_error(result.getError());
    return fail_from(found, error, is_of_a_member(error));
  }
  if (const Result<void> checked = check_result(*found, result); !checked.ok())
    return fail_from(found, checked.error(), false);
  const InFlightStep flight = std::move(*found);
  in_flight_.erase(found);
  std::uint64_t took_ns = now_ns - flight.sent_ns;
  if (options_.pipeline_stages == 1) {
    // One stage computes steps one after the other, however early they were sent; but the result before may have come
    // late, and then the stage knows better.
    std::uint64_t computed_ns = 0;
    for (const auto timing : result.getTimings()) computed_ns += std::min(timing.getComputeNs(), took_ns - computed_ns);
    took_ns = std::max(now_ns - std::max(flight.sent_ns, last_result_ns_), computed_ns);
  }
  last_result_ns_ = now_ns;
  learn(flight, result, took_ns);
  for (const SequenceId id : flight.swapped_out) swap_.settle(id);

  std::vector<Delta> deltas;
  const auto token_counts = result.getTokenCounts(), tokens = result.getTokens();
  const auto logprobs = result.getLogprobs();
  unsigned sampled = 0, next_token = 0;
  for (const InFlightItem& item : flight.items) {
    Sequence& sequence = *sequences_.find(item.sequence);
    --sequence.steps_in_flight;
    Run run{.first = next_token};
    if (item.sample) run.count = run_length(token_counts, sampled++);
    next_token += run.count;
    const std::uint32_t came_true = item.guesses.empty() ? 0 : run.count - 1;
    append(sequence, tokens, run);
    sequence.settled = item.end + (run.count > 0 ? run.count - 1 : 0);
    // Those behind the end of the sequence were put to no test.
    const std::uint32_t accepted = std::min(came_true, run.count);
    const std::uint32_t guesses = run.count > came_true ? static_cast<std::uint32_t>(item.guesses.size()) : accepted;
    if (!item.guesses.empty()) speculation_.learn(sequence.id, guesses, accepted);
    // Not earlier: nobody may find in the pages what a failed step was to write there.
    blocks_.publish(sequence.id, sequence.cache_salt, std::span(sequence.tokens).first(sequence.settled));
    const Tenant tenant = sequence.tenant;
    if (sequence.dropped) {
      drop(sequence);
    } else if (std::optional<Delta> delta = report(sequence, logprobs, run)) {
      delta->guesses = guesses;
      delta->accepted_guesses = accepted;
      sequences_.fair_share.charge(tenant, delta->tokens.size());
      deltas.push_back(std::move(*delta));
    }
  }
  return deltas;
}

void Engine::learn(const InFlightStep& flight, schema::StepResult::Reader result, std::uint64_t took_ns) {
  if (flight.copies > 0) {
    // Stages copy one after the other; those of their times that cannot be are not believed.
    std::uint64_t copy_ns = 0;
    for (const auto timing : result.getTimings()) copy_ns += std::min(timing.getCopyNs(), took_ns - copy_ns);
    step_budget_.observe_copies(flight.copies, copy_ns);
    took_ns -= copy_ns;
  }
  step_budget_.observe(flight.work, took_ns);
  if (flight.rows > 0) speculation_.step_took(flight.rows, took_ns);
}

Result<void> Engine::check_result(const InFlightStep& flight, schema::StepResult::Reader result) {
  if (flight.ahead && &flight != &in_flight_.front()) {
    return flight.mismatch("it comes before the result that it goes on from");
  }
  TROUPE_RETURN_IF_ERROR(flight.check(result));
  return collect_prompt_logprobs(flight, result);
}

Result<void> Engine::collect_prompt_logprobs(const InFlightStep& flight, schema::StepResult::Reader result) {
  for (const auto part : result.getPromptLogprobs()) {
    const bool in_step = std::any_of(flight.items.begin(), flight.items.end(),
                                     [&](const InFlightItem& item) { return item.sequence == part.getSequence(); });
    Sequence* sequence = in_step ? sequences_.find(part.getSequence()) : nullptr;
    const bool continues = sequence != nullptr && !sequence->prompt_logprobs_complete &&
                           part.getFirstPosition() == sequence->prompt_logprobs.size() + 1 &&
                           part.getItems().size() <= sequence->prompt_length - part.getFirstPosition();
    if (!continues) {
      return internal_error("step " + std::to_string(flight.step) + " rated tokens of sequence " +
                            std::to_string(part.getSequence()) + " that were not due");
    }
    for (const auto item : part.getItems()) sequence->prompt_logprobs.push_back(read_rated(item));
    sequence->prompt_logprobs_complete = sequence->prompt_logprobs.size() + 1 == sequence->prompt_length;
  }
  return {};
}

void Engine::append(Sequence& sequence, capnp::List<std::uint32_t>::Reader tokens, Run& run) const {
  unsigned count = 0;
  while (count < run.count && !ends(sequence)) {
    sequence.tokens.push_back(tokens[run.first + count++]);
  }
  run.count = count;
  if (count == 0) return;
  sequence.phase = Phase::kDecode;
  // All but the newest were guesses, and the step has computed them.
  sequence.computed += count - 1;
}

bool Engine::ends(const Sequence& sequence) const {
  return sequence.length() >= sequence.max_length || has_stopped(sequence);
}

// Whether its newest token ends it.
bool Engine::has_stopped(const Sequence& sequence) const {
  return sequence.generated() > 0 && sequence.stops_at(sequence.tokens.back(), sequence.generated());
}

std::optional<Delta> Engine::report(Sequence& sequence, capnp::List<schema::TokenLogprobs>::Reader logprobs, Run run) {
  const bool reads_only = sequence.max_length == sequence.prompt_length;
  // More of the prompt to come?
  if (run.count == 0 && !(reads_only && sequence.uncomputed() == 0)) return std::nullopt;

  Delta delta{.owner = sequence.owner, .request = sequence.request};
  delta.prompt_logprobs = std::exchange(sequence.prompt_logprobs, {});
  if (sequence.generated() == run.count) {
    delta.queue_ns = *sequence.first_step_ns - sequence.admitted_ns;
    delta.cached_tokens = sequence.cached_tokens;
  }
  delta.tokens.assign(sequence.tokens.end() - run.count, sequence.tokens.end());
  if (sequence.sampling.logprobs) {
    for (unsigned i = 0; i < run.count; ++i) delta.logprobs.push_back(read_rated(logprobs[run.first + i]));
  }
  counts_.generated_tokens += run.count;
  if (run.count > 0 && has_stopped(sequence)) {
    delta.finish = schema::FinishReason::STOP;
  } else if (sequence.length() >= sequence.max_length) {
    delta.finish = schema::FinishReason::LENGTH;
  }
  if (delta.finish != schema::FinishReason::NONE) {
    ++counts_.finished;
    drop(sequence);
  }
  return delta;
}

std::optional<std::uint64_t> Engine::oldest_waiting_ns() const {
  if (sequences_.waiting.empty()) return std::nullopt;
  return sequences_.waiting.begin()->second.admitted_ns;
}

EngineCounts Engine::counts() const {
  EngineCounts counts = counts_;
  counts.waiting = sequences_.waiting.size();
  counts.running = sequences_.running.size();
  counts.speculation = speculation_.counts();
  return counts;
}

}  // namespace troupe::engine
