#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "runtime/base/result.h"

namespace troupe::fabric {

class ChannelState;

// One end of an ordered pipe of byte frames to another node, for a thread that blocks: collectives. Frames that
// arrive before the channel is opened wait for it. Move-only; closing drops what was not received.
// Thread-safety: one thread sends and receives; abort() from any thread. A default-constructed Channel is closed:
// every operation fails with kUnavailable.
class Channel {
 public:
  Channel() = default;
  explicit Channel(std::shared_ptr<ChannelState> state) : state_(std::move(state)) {}
  Channel(Channel&&) = default;
  Channel& operator=(Channel&& other) noexcept;
  ~Channel();

  // Returns when the frame is copied and queued. Errors: kUnavailable (peer lost), kCancelled,
  // kResourceExhausted (limits send_queue_bytes, frame_bytes).
  Result<void> send(std::span<const std::byte> frame);

  // The next frame, copied to the front of `frame`; returns its size. Spins for limits.spin_us, then sleeps.
  // Errors: kUnavailable at once when the peer is lost, kCancelled at once after abort() at either end,
  // kDeadlineExceeded, kResourceExhausted when `frame` is too small (the frame stays).
  Result<std::size_t> receive(std::span<std::byte> frame, std::chrono::milliseconds timeout);

  // What the next operation would fail with, if at all. Thread-safe.
  Result<void> check() const;

  // Fails this and all later operations with kCancelled, and those of the other end as soon as it learns of it. Frames
  // that it has not received by then are lost.
  void abort();

 private:
  std::shared_ptr<ChannelState> state_;
};

}  // namespace troupe::fabric
