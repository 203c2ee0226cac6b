#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

namespace troupe {

// What a gateway knows of the room in the queues of its schedulers, one a replica, so that a request that would be
// refused is refused before its prompt is tokenized. Exact as of the schedulers' last messages; since then the gateway
// counts what it sends. It errs to both sides by what happens in the time of a step: what is let through is checked by
// the scheduler. Thread-safe.
class SchedulerRoom {
 public:
  // `queue`: what a queue takes when nothing is known of it.
  explicit SchedulerRoom(std::uint64_t queue) : queue_(queue) {}

  // A request on its way to a scheduler: held until it is sent or has failed.
  using Ticket = std::shared_ptr<void>;
  // Null when every queue is full.
  Ticket enter();

  void add(std::uint32_t replica);
  void remove(std::uint32_t replica);

  // So many requests were sent to a replica.
  void sent(std::uint32_t replica, std::uint64_t requests);

  // The queue of a replica takes so many requests.
  void tell(std::uint32_t replica, std::uint64_t requests, std::uint32_t retry_after_ms);

  // The schedulers have nothing to say to this gateway from now on: what they told grows old.
  void forget();

  // Of the replica that has room first.
  std::uint32_t retry_after_ms() const;

 private:
  struct Queue {
    std::uint64_t room;
    std::uint64_t sent = 0;  // since `room` was told
    std::uint32_t retry_after_ms = 0;
  };

  const std::uint64_t queue_;
  mutable std::mutex mutex_;
  std::map<std::uint32_t, Queue> queues_;  // by replica
  // Every ticket is one more reference to it.
  const std::shared_ptr<void> entered_ = std::make_shared<char>();
};

}  // namespace troupe
