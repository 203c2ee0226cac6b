#include "runtime/fabric/channel.h"

#include <cstring>

#include "runtime/fabric/channel_state.h"
#include "runtime/fabric/endpoint.h"

namespace troupe::fabric {

Channel& Channel::operator=(Channel&& other) noexcept {
  if (this != &other) {
    if (state_) state_->close();
    state_ = std::move(other.state_);
  }
  return *this;
}

Channel::~Channel() {
  if (state_) state_->close();
}

Result<void> Channel::send(std::span<const std::byte> frame) {
  if (!state_) return unavailable("channel is closed");
  return state_->send(frame);
}

Result<std::size_t> Channel::receive(std::span<std::byte> frame, std::chrono::milliseconds timeout) {
  if (!state_) return unavailable("channel is closed");
  return state_->receive(frame, timeout);
}

Result<void> Channel::check() const {
  if (!state_) return unavailable("channel is closed");
  if (auto error = state_->failure()) return *std::move(error);
  return {};
}

void Channel::abort() {
  if (state_) state_->abort();
}

Result<void> ChannelState::send(std::span<const std::byte> frame) {
  if (auto error = failure()) return *std::move(error);
  return endpoint_->send_channel(id_, frame);
}

Result<std::size_t> ChannelState::receive(std::span<std::byte> frame, std::chrono::milliseconds timeout) {
  using Clock = std::chrono::steady_clock;
  auto start = Clock::now();
  auto deadline = start + timeout;
  std::unique_lock lock(mutex_);
  if (frames_.empty() && !error_ && spin_us_ > 0) {
    auto seen = events_.load(std::memory_order_relaxed);
    lock.unlock();
    auto spin_until = std::min(deadline, start + std::chrono::microseconds(spin_us_));
    while (events_.load(std::memory_order_acquire) == seen && Clock::now() < spin_until) {
    }
    lock.lock();
  }
  if (!changed_.wait_until(lock, deadline, [this] { return error_ || !frames_.empty(); })) {
    return deadline_exceeded("nothing arrived on channel " + std::to_string(id_) + " from " +
                             to_string(endpoint_->node()) + " within " + std::to_string(timeout.count()) + " ms");
  }
  if (error_) return *error_;
  auto& next = frames_.front();
  if (next.size() > frame.size()) {
    return resource_exhausted("channel frame of " + std::to_string(next.size()) + " bytes does not fit into " +
                              std::to_string(frame.size()));
  }
  auto taken = std::move(next);
  frames_.pop_front();
  lock.unlock();  // the copy, and the credit that goes back with the frame, need no lock
  if (taken.size() > 0) std::memcpy(frame.data(), taken.data(), taken.size());
  return taken.size();
}

void ChannelState::close() {
  fail(unavailable("channel is closed"));
  if (endpoint_) endpoint_->close_channel(id_);
}

void ChannelState::abort() {
  if (!failure()) endpoint_->send_channel_abort(id_);
  fail(cancelled("channel was aborted"));
}

void ChannelState::deliver(Attachment frame) {
  {
    std::lock_guard lock(mutex_);
    if (error_) return;
    frames_.push_back(std::move(frame));
    events_.fetch_add(1, std::memory_order_release);
  }
  changed_.notify_one();
}

void ChannelState::fail(Error error) {
  std::deque<Attachment> dropped;  // released after the lock
  {
    std::lock_guard lock(mutex_);
    if (error_) return;
    error_ = std::move(error);
    dropped.swap(frames_);
    events_.fetch_add(1, std::memory_order_release);
  }
  changed_.notify_all();
}

std::optional<Error> ChannelState::failure() const {
  std::lock_guard lock(mutex_);
  return error_;
}

}  // namespace troupe::fabric
