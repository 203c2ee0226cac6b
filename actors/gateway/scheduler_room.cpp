#include "actors/gateway/scheduler_room.h"

namespace troupe {

SchedulerRoom::Ticket SchedulerRoom::enter() {
  const std::lock_guard lock(mutex_);
  const auto entered = static_cast<std::uint64_t>(entered_.use_count() - 1);
  if (entered + sent_ >= room_) return nullptr;
  return entered_;
}

void SchedulerRoom::sent(std::uint64_t prompts) {
  const std::lock_guard lock(mutex_);
  sent_ += prompts;
}

void SchedulerRoom::tell(std::uint64_t requests, std::uint32_t retry_after_ms) {
  const std::lock_guard lock(mutex_);
  room_ = requests;
  sent_ = 0;
  retry_after_ms_ = retry_after_ms;
}

void SchedulerRoom::forget() { tell(queue_, 0); }

std::uint32_t SchedulerRoom::retry_after_ms() const {
  const std::lock_guard lock(mutex_);
  return retry_after_ms_;
}

}  // namespace troupe
