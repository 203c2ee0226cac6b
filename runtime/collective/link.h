#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/fabric/channel.h"

namespace troupe::collective {

// The way to and from one other rank of a group: an ordered pipe of frames each way. The receiver knows how large the
// next frame is. One thread sends and receives; check() and abort() from any
// thread.
class Link {
 public:
  virtual ~Link() = default;

  // Returns when the frame is copied. Errors: kUnavailable (the peer is lost), kCancelled after abort(),
  // kDeadlineExceeded, kResourceExhausted.
  virtual Result<void> send(std::span<const std::byte> frame) = 0;

  // The next frame, which must be as large as `frame`: kCorruptData if it is not. Errors as of send().
  virtual Result<void> receive(std::span<std::byte> frame, std::chrono::milliseconds timeout) = 0;

  // What the next operation would fail with, if at all. Waits for nothing; from any thread.
  virtual Result<void> check() const = 0;

  virtual void abort() = 0;
};

// Links to every other rank over its channel; null for the own rank. Two ranks that share a host (the same boot,
// process ids and network namespace) map memory of one of them and hand small frames over there, between the very
// threads that compute, without the detour over both fabrics' threads. Larger ones, and all between hosts, take the
// channel.
//
// Every rank calls this at the same time. `channels`: one a rank, the own one closed. Blocks until all have agreed, for
// `timeout` at most: kDeadlineExceeded then, or what failed a channel.
Result<std::vector<std::unique_ptr<Link>>> make_links(std::uint32_t rank, std::vector<fabric::Channel> channels,
                                                      std::chrono::milliseconds timeout);

}  // namespace troupe::collective
