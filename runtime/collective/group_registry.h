#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "runtime/collective/communicator.h"

namespace troupe::collective {

// Which group of which life of the cluster.
struct GroupKey {
  std::uint32_t replica = 0;
  std::uint32_t stage = 0;
  std::uint64_t epoch = 0;

  auto operator<=>(const GroupKey&) const = default;
};

// Where the ranks of a group that all live in this process meet: the first to come makes the group, each takes its
// own communicator. A group of a newer epoch replaces that of an older one. Thread-safe.
class GroupRegistry {
 public:
  // REQUIRES: each rank of a key joins once, all with the same world_size.
  std::unique_ptr<Communicator> join(const GroupKey& key, std::uint32_t rank, std::uint32_t world_size,
                                     std::chrono::milliseconds timeout);

 private:
  struct Group {
    std::uint64_t epoch = 0;
    std::vector<std::unique_ptr<Communicator>> ranks;
  };
  std::mutex mutex_;
  std::map<std::pair<std::uint32_t, std::uint32_t>, Group> groups_;  // by (replica, stage)
};

}  // namespace troupe::collective
