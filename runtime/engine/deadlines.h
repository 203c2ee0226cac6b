#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "runtime/engine/waiting_order.h"

namespace troupe::engine {

// When which sequence is due. Used by one thread.
class Deadlines {
 public:
  // In the place of what was set before.
  void set(SequenceId sequence, std::uint64_t due_ns);
  // One that is not there is no error.
  void erase(SequenceId sequence);

  // The earliest.
  std::optional<std::uint64_t> next_ns() const;

  // Takes out the earliest if it is due.
  std::optional<SequenceId> take_due(std::uint64_t now_ns);

 private:
  std::set<std::pair<std::uint64_t, SequenceId>> by_time_;
  std::map<SequenceId, std::uint64_t> due_ns_;
};

}  // namespace troupe::engine
