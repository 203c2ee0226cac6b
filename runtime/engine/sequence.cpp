#include "runtime/engine/sequence.h"

#include <cassert>

namespace troupe::engine {

Sequence* Sequences::find(SequenceId id) {
  if (const auto found = running.find(id); found != running.end()) return &found->second;
  if (const auto found = waiting.find(id); found != waiting.end()) return &found->second;
  return nullptr;
}

Sequence& Sequences::begin(SequenceId id) {
  auto node = waiting.extract(id);
  assert(node);
  Sequence& sequence = running.insert(std::move(node)).position->second;
  sequence.phase = Phase::kPrefill;
  return sequence;
}

Sequence& Sequences::restart(SequenceId id) {
  auto node = running.extract(id);
  assert(node && !node.mapped().in_flight);
  Sequence& sequence = waiting.insert(std::move(node)).position->second;
  sequence.phase = Phase::kWaiting;
  sequence.computed = 0;
  sequence.awaits_guesses = false;
  if (!sequence.prompt_logprobs_complete) sequence.prompt_logprobs.clear();
  return sequence;
}

}  // namespace troupe::engine
