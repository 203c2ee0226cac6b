#include "runtime/engine/sequence.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace troupe::engine {

bool ranks_before(const Sequence& a, const Sequence& b) {
  return std::pair(a.priority, a.id) < std::pair(b.priority, b.id);
}

Sequence* Sequences::find(SequenceId id) {
  if (const auto found = running.find(id); found != running.end()) return &found->second;
  if (const auto found = waiting.find(id); found != waiting.end()) return &found->second;
  return nullptr;
}

const Sequence* Sequences::next() const {
  const SequenceId id = order.next(fair_share);
  return id == 0 ? nullptr : &waiting.at(id);
}

std::vector<Sequence*> Sequences::ranked() {
  std::vector<Sequence*> ranked;
  ranked.reserve(running.size());
  for (auto& [id, sequence] : running) ranked.push_back(&sequence);
  std::sort(ranked.begin(), ranked.end(), [](const Sequence* a, const Sequence* b) { return ranks_before(*a, *b); });
  return ranked;
}

void Sequences::add(Sequence&& sequence) {
  fair_share.enter(sequence.tenant);
  order.add(sequence);
  const SequenceId id = sequence.id;
  waiting.emplace(id, std::move(sequence));
}

void Sequences::erase(Sequence& sequence) {
  fair_share.leave(sequence.tenant);
  if (sequence.phase == Phase::kWaiting) {
    order.remove(sequence);
    waiting.erase(sequence.id);
  } else {
    running.erase(sequence.id);
  }
}

Sequence& Sequences::begin(SequenceId id) {
  auto node = waiting.extract(id);
  assert(node);
  Sequence& sequence = running.insert(std::move(node)).position->second;
  order.remove(sequence);
  if (!sequence.begun) fair_share.charge(sequence.tenant, sequence.prompt_length);
  sequence.begun = true;
  sequence.phase = Phase::kPrefill;
  return sequence;
}

Sequence& Sequences::restart(SequenceId id) {
  auto node = running.extract(id);
  assert(node && !node.mapped().in_flight());
  Sequence& sequence = waiting.insert(std::move(node)).position->second;
  sequence.phase = Phase::kWaiting;
  sequence.computed = sequence.settled = 0;
  sequence.on_shards = false;
  sequence.awaits_guesses = false;
  order.add(sequence);
  if (!sequence.prompt_logprobs_complete) sequence.prompt_logprobs.clear();
  return sequence;
}

}  // namespace troupe::engine
