#pragma once

#include <cstdint>
#include <map>
#include <set>

#include "runtime/engine/fair_share.h"

namespace troupe::engine {

struct Sequence;

// Grows by one an admitted request: a smaller id came earlier.
using SequenceId = std::uint64_t;

// Who of the waiting is next: by priority; then those that had begun and were preempted, the oldest first; then the
// oldest of the tenant that was served least; of tenants served alike, the oldest. A sequence must not change its
// priority, tenant, length or whether it has begun while it is here. Used by one thread.
class WaitingOrder {
 public:
  void add(const Sequence& sequence);
  void remove(const Sequence& sequence);

  // 0 when nobody waits. `fair_share` knows the tenants of all who wait.
  SequenceId next(const FairShare& fair_share) const;

  std::uint64_t tokens() const { return tokens_; }  // of all who wait

  // About how many tokens of others run before a newcomer's: all of more urgent priorities; of its own tenant, and as
  // many of each tenant beside it, but no more than there are.
  std::uint64_t tokens_before(std::int32_t priority, Tenant tenant) const;

 private:
  struct Line {
    std::set<SequenceId> ids;
    std::uint64_t tokens = 0;
  };
  struct Level {
    Line begun;
    std::map<Tenant, Line> newcomers;  // no line is empty
    std::uint64_t tokens = 0;
  };

  std::map<std::int32_t, Level> levels_;  // no level is empty
  std::uint64_t tokens_ = 0;
};

}  // namespace troupe::engine
