#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>

#include "runtime/base/result.h"
#include "runtime/fabric/message.h"

namespace troupe::fabric {

class Endpoint;

// What the two ends of a channel's hand-off share: the fabric's thread delivers, one thread receives.
class ChannelState {
 public:
  // `endpoint` may be null: a channel that leads nowhere.
  ChannelState(std::shared_ptr<Endpoint> endpoint, std::uint64_t id, std::uint64_t spin_us)
      : endpoint_(std::move(endpoint)), id_(id), spin_us_(spin_us) {}

  Result<void> send(std::span<const std::byte> frame);
  Result<std::size_t> receive(std::span<std::byte> frame, std::chrono::milliseconds timeout);
  void close();

  void abort();

  void deliver(Attachment frame);
  // The first failure stays. Frames that are there already are not received any more.
  void fail(Error error);
  std::optional<Error> failure() const;

 private:
  const std::shared_ptr<Endpoint> endpoint_;
  const std::uint64_t id_;
  const std::uint64_t spin_us_;
  // Changes with each delivery and failure, so that the receiver can spin without the mutex.
  std::atomic<std::uint64_t> events_{0};
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Attachment> frames_;
  std::optional<Error> error_;
};

}  // namespace troupe::fabric
