#include "actors/gateway/scheduler_room.h"

#include <algorithm>

namespace troupe {

SchedulerRoom::Ticket SchedulerRoom::enter() {
  const std::lock_guard lock(mutex_);
  std::uint64_t room = 0;
  for (const auto& [replica, queue] : queues_) room += queue.room - std::min(queue.room, queue.sent);
  const auto entered = static_cast<std::uint64_t>(entered_.use_count() - 1);
  return entered < room ? entered_ : nullptr;
}

void SchedulerRoom::add(std::uint32_t replica) {
  const std::lock_guard lock(mutex_);
  queues_.insert_or_assign(replica, Queue{.room = queue_});
}

void SchedulerRoom::remove(std::uint32_t replica) {
  const std::lock_guard lock(mutex_);
  queues_.erase(replica);
}

void SchedulerRoom::sent(std::uint32_t replica, std::uint64_t requests) {
  const std::lock_guard lock(mutex_);
  const auto found = queues_.find(replica);
  if (found != queues_.end()) found->second.sent += requests;
}

void SchedulerRoom::tell(std::uint32_t replica, std::uint64_t requests, std::uint32_t retry_after_ms) {
  const std::lock_guard lock(mutex_);
  const auto found = queues_.find(replica);
  if (found != queues_.end()) found->second = {.room = requests, .retry_after_ms = retry_after_ms};
}

void SchedulerRoom::forget() {
  const std::lock_guard lock(mutex_);
  for (auto& [replica, queue] : queues_) queue = {.room = queue_};
}

std::uint32_t SchedulerRoom::retry_after_ms() const {
  const std::lock_guard lock(mutex_);
  std::uint32_t soonest = 0;
  for (const auto& [replica, queue] : queues_) {
    if (queue.retry_after_ms > 0 && (soonest == 0 || queue.retry_after_ms < soonest)) soonest = queue.retry_after_ms;
  }
  return soonest;
}

}  // namespace troupe
