#include "runtime/collective/group_registry.h"

#include <cassert>

#include "runtime/collective/in_process.h"

namespace troupe::collective {

std::unique_ptr<Communicator> GroupRegistry::join(const GroupKey& key, std::uint32_t rank, std::uint32_t world_size,
                                                  std::chrono::milliseconds timeout) {
  std::lock_guard lock(mutex_);
  Group& group = groups_[{key.replica, key.stage}];
  if (group.epoch != key.epoch || group.ranks.empty()) {
    group.epoch = key.epoch;
    group.ranks = make_in_process_group(world_size, {.timeout = timeout});
  }
  assert(rank < group.ranks.size() && group.ranks[rank] != nullptr);
  return std::move(group.ranks[rank]);
}

}  // namespace troupe::collective
