#include "runtime/engine/waiting_order.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "runtime/engine/sequence.h"

namespace troupe::engine {

void WaitingOrder::add(const Sequence& sequence) {
  Level& level = levels_[sequence.priority];
  Line& line = sequence.begun ? level.begun : level.newcomers[sequence.tenant];
  line.ids.insert(sequence.id);
  for (std::uint64_t* const sum : {&line.tokens, &level.tokens, &tokens_}) *sum += sequence.length();
}

void WaitingOrder::remove(const Sequence& sequence) {
  const auto level = levels_.find(sequence.priority);
  assert(level != levels_.end());
  Line& line = sequence.begun ? level->second.begun : level->second.newcomers.at(sequence.tenant);
  line.ids.erase(sequence.id);
  for (std::uint64_t* const sum : {&line.tokens, &level->second.tokens, &tokens_}) *sum -= sequence.length();
  if (!sequence.begun && line.ids.empty()) level->second.newcomers.erase(sequence.tenant);
  if (level->second.newcomers.empty() && level->second.begun.ids.empty()) levels_.erase(level);
}

SequenceId WaitingOrder::next(const FairShare& fair_share) const {
  if (levels_.empty()) return 0;
  const Level& level = levels_.begin()->second;
  if (!level.begun.ids.empty()) return *level.begun.ids.begin();
  std::pair<std::uint64_t, SequenceId> least;
  for (const auto& [tenant, line] : level.newcomers) {
    const std::pair candidate(fair_share.served(tenant), *line.ids.begin());
    if (least.second == 0 || candidate < least) least = candidate;
  }
  return least.second;
}

std::uint64_t WaitingOrder::tokens_before(std::int32_t priority, Tenant tenant) const {
  std::uint64_t tokens = 0;
  for (const auto& [level_priority, level] : levels_) {
    if (level_priority > priority) break;
    if (level_priority < priority) {
      tokens += level.tokens;
      continue;
    }
    const auto own = level.newcomers.find(tenant);
    const std::uint64_t ahead = own == level.newcomers.end() ? 0 : own->second.tokens;
    const std::uint64_t newcomers = level.tokens - level.begun.tokens;
    tokens += level.begun.tokens + std::min(newcomers, ahead * level.newcomers.size());
  }
  return tokens;
}

}  // namespace troupe::engine
