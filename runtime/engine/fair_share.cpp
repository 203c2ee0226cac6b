#include "runtime/engine/fair_share.h"

#include <algorithm>
#include <cassert>

namespace troupe::engine {

void FairShare::enter(Tenant tenant) {
  if (const auto found = active_.find(tenant); found != active_.end()) {
    ++found->second.requests;
    return;
  }
  std::uint64_t served = least_served();
  if (const auto found = idle_.find(tenant); found != idle_.end()) {
    served = std::max(served, found->second);
    idle_.erase(found);
  }
  active_[tenant] = {.requests = 1, .served = served};
}

void FairShare::leave(Tenant tenant) {
  const auto found = active_.find(tenant);
  assert(found != active_.end());
  if (--found->second.requests > 0) return;
  idle_[tenant] = found->second.served;
  active_.erase(found);
  forget_idle();
}

void FairShare::charge(Tenant tenant, std::uint64_t tokens) {
  if (const auto found = active_.find(tenant); found != active_.end()) {
    found->second.served += tokens;
  } else if (const auto idle = idle_.find(tenant); idle != idle_.end()) {
    idle->second += tokens;
  }
}

std::uint64_t FairShare::least_served() const {
  std::uint64_t least = 0;
  for (auto account = active_.begin(); account != active_.end(); ++account) {
    least = account == active_.begin() ? account->second.served : std::min(least, account->second.served);
  }
  return least;
}

void FairShare::forget_idle() {
  if (active_.empty()) return idle_.clear();
  std::erase_if(idle_, [least = least_served()](const auto& entry) { return entry.second <= least; });
  while (idle_.size() > most_idle_) {
    idle_.erase(
        std::min_element(idle_.begin(), idle_.end(), [](const auto& a, const auto& b) { return a.second < b.second; }));
  }
}

}  // namespace troupe::engine
