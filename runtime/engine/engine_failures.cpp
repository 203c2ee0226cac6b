// The part of the Engine that ends sequences before they are done, or begins them anew: steps and members that fail,
// deadlines, new epochs.

#include <iterator>
#include <string>
#include <utility>

#include "runtime/engine/engine.h"

namespace troupe::engine {

namespace {

void move_to_end(std::vector<Delta>&& from, std::vector<Delta>& to) {
  to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

}  // namespace

bool is_of_a_member(const Error& error) {
  switch (error.code) {
    case ErrorCode::kUnavailable:
    case ErrorCode::kDeadlineExceeded:
    case ErrorCode::kCancelled:
    case ErrorCode::kInternal: return true;
    default: return false;
  }
}

std::vector<Delta> Engine::fail_step(const InFlightStep& flight, const Error& error, bool may_start_again) {
  std::vector<Delta> deltas;
  for (const InFlightItem& item : flight.items) {
    Sequence& sequence = *sequences_.find(item.sequence);
    --sequence.steps_in_flight;
    if (sequence.dropped) {
      drop(sequence);
    } else if (may_start_again && sequence.in_flight()) {
      continue;  // the step behind this one, which fails with it, goes on from what this one was to draw
    } else if (may_start_again && ++sequence.lost_steps < kMostLostSteps) {
      start_again(sequence);
    } else {
      deltas.push_back(fail(sequence, error));
    }
  }
  for (const SequenceId id : flight.swapped_out) swap_.release(id);
  // Who has started again since must not be released: that start replaced whatever the shards knew.
  for (const SequenceId id : flight.released) {
    if (!sequences_.running.contains(id)) released_.push_back(id);
  }
  return deltas;
}

std::vector<Delta> Engine::fail_from(std::deque<InFlightStep>::iterator step, const Error& error,
                                     bool may_start_again) {
  std::vector<Delta> deltas;
  do {
    const InFlightStep flight = std::move(*step);
    step = in_flight_.erase(step);
    move_to_end(fail_step(flight, error, may_start_again), deltas);
  } while (step != in_flight_.end() && step->ahead);
  return deltas;
}

void Engine::start_again(Sequence& sequence) {
  released_.push_back(sequence.id);
  blocks_.release(sequence.id);
  sequences_.restart(sequence.id);
}

std::vector<Delta> Engine::fail_in_flight(const Error& error) {
  std::vector<Delta> deltas;
  while (!in_flight_.empty()) move_to_end(fail_from(in_flight_.begin(), error, true), deltas);
  return deltas;
}

std::vector<Delta> Engine::fail_waiting(const Error& error, std::uint64_t admitted_before_ns) {
  std::vector<Delta> deltas;
  for (auto next = sequences_.waiting.begin(); next != sequences_.waiting.end();) {
    Sequence& sequence = next->second;
    ++next;  // failing erases the entry
    if (sequence.admitted_ns < admitted_before_ns) deltas.push_back(fail(sequence, error));
  }
  return deltas;
}

std::vector<Delta> Engine::expire(std::uint64_t now_ns) {
  std::vector<Delta> deltas;
  while (const std::optional<SequenceId> id = deadlines_.take_due(now_ns)) {
    Sequence& sequence = *sequences_.find(*id);
    if (sequence.begun && *sequence.deadline_ns > now_ns) {
      deadlines_.set(*id, *sequence.deadline_ns);  // that it has begun in time was due
      continue;
    }
    const std::string timeout = std::to_string((*sequence.deadline_ns - sequence.admitted_ns) / 1'000'000) + " ms";
    Delta delta{.owner = sequence.owner, .request = sequence.request};
    delta.finish = schema::FinishReason::ERROR;
    delta.error = deadline_exceeded(
        sequence.begun ? "the timeout of " + timeout + " is over after " + std::to_string(sequence.generated()) +
                             " tokens; allow more time or ask for fewer tokens"
                       : "the request waited too long to give a token within its timeout of " + timeout +
                             "; allow more time or ask again later",
        "timeout");
    ++counts_.expired;
    drop(sequence);
    deltas.push_back(std::move(delta));
  }
  return deltas;
}

std::vector<Delta> Engine::fail_all(const Error& error) {
  std::vector<Delta> deltas = fail_in_flight(error);
  for (SequenceMap* map : {&sequences_.running, &sequences_.waiting}) {
    while (!map->empty()) deltas.push_back(fail(map->begin()->second, error));
  }
  return deltas;
}

std::vector<Delta> Engine::reset_for_epoch(std::uint32_t replica, std::uint64_t epoch, const Error& error) {
  std::vector<Delta> deltas = fail_in_flight(error);
  while (!sequences_.running.empty()) {
    Sequence& sequence = sequences_.restart(sequences_.running.begin()->first);
    blocks_.release(sequence.id);
  }
  blocks_.forget_published();
  swap_.clear();
  released_.clear();
  drain_rate_.pause();
  replica_ = replica;
  epoch_ = epoch;
  next_step_ = 1;
  return deltas;
}

Delta Engine::fail(Sequence& sequence, const Error& error) {
  Delta delta{.owner = sequence.owner, .request = sequence.request};
  delta.finish = schema::FinishReason::ERROR;
  delta.error = error;
  ++counts_.failed;
  drop(sequence);
  return delta;
}

void Engine::forget(Sequence& sequence) {
  const SequenceId id = sequence.id;
  blocks_.release(id);
  swap_.release(id);
  speculation_.forget(id);
  if (sequence.on_shards) released_.push_back(id);
  sequences_.erase(sequence);
}

}  // namespace troupe::engine
