#pragma once

#include <cstdint>
#include <memory>
#include <mutex>

namespace troupe {

// What a gateway knows of the room in the scheduler's queue, so that a request that would be refused is refused before
// its prompt is tokenized. Exact as of the scheduler's last message; since then the gateway counts what it sends. It
// errs to both sides by what happens in the time of a step: what is let through is checked by the scheduler.
// Thread-safe.
class SchedulerRoom {
 public:
  // `queue`: what the queue takes when nothing is known of it.
  explicit SchedulerRoom(std::uint64_t queue) : queue_(queue), room_(queue) {}

  // A request on its way to the scheduler: held until it is sent or has failed.
  using Ticket = std::shared_ptr<void>;
  // Null when the queue is full.
  Ticket enter();

  // So many prompts were sent.
  void sent(std::uint64_t prompts);

  // The scheduler's queue takes so many requests.
  void tell(std::uint64_t requests, std::uint32_t retry_after_ms);

  // The scheduler has nothing to say to this gateway from now on: what it told grows old.
  void forget();

  std::uint32_t retry_after_ms() const;

 private:
  const std::uint64_t queue_;
  mutable std::mutex mutex_;
  std::uint64_t room_;
  std::uint64_t sent_ = 0;  // since room_ was told
  std::uint32_t retry_after_ms_ = 0;
  // Every ticket is one more reference to it.
  const std::shared_ptr<void> entered_ = std::make_shared<char>();
};

}  // namespace troupe
