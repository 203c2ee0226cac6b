#include "runtime/engine/deadlines.h"

namespace troupe::engine {

void Deadlines::set(SequenceId sequence, std::uint64_t due_ns) {
  erase(sequence);
  due_ns_[sequence] = due_ns;
  by_time_.emplace(due_ns, sequence);
}

void Deadlines::erase(SequenceId sequence) {
  const auto found = due_ns_.find(sequence);
  if (found == due_ns_.end()) return;
  by_time_.erase({found->second, sequence});
  due_ns_.erase(found);
}

std::optional<std::uint64_t> Deadlines::next_ns() const {
  if (by_time_.empty()) return std::nullopt;
  return by_time_.begin()->first;
}

std::optional<SequenceId> Deadlines::take_due(std::uint64_t now_ns) {
  if (by_time_.empty() || by_time_.begin()->first > now_ns) return std::nullopt;
  const SequenceId sequence = by_time_.begin()->second;
  erase(sequence);
  return sequence;
}

}  // namespace troupe::engine
