#pragma once

#include <sys/types.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "runtime/base/result.h"

namespace troupe::collective {

// Frames of at most kSlotBytes from one thread to another, perhaps of another process, through memory that both map.
// Lives in that memory: all zeros is an empty mailbox. What the other side writes is not trusted.
struct Mailbox {
  static constexpr std::uint32_t kSlots = 2;
  static constexpr std::size_t kSlotBytes = 256 << 10;  // a step of 64 rows of 1,024 floats

  struct Slot {
    std::atomic<std::uint64_t> size;
    alignas(64) std::byte data[kSlotBytes];
  };

  alignas(64) std::atomic<std::uint32_t> written;        // frames, modulo 2^32; the reader sleeps on it
  alignas(64) std::atomic<std::uint32_t> read;           // frames; the writer sleeps on it
  alignas(64) std::atomic<std::uint32_t> reader_sleeps;  // or is about to
  alignas(64) std::atomic<std::uint32_t> writer_sleeps;
  Slot slots[kSlots];
};
static_assert(std::atomic<std::uint32_t>::is_always_lock_free && std::atomic<std::uint64_t>::is_always_lock_free);

// Asked now and then while waiting: why to give up, if at all.
using Interruption = std::function<Result<void>()>;

// Copies a frame in, when a slot is free. REQUIRES: frame.size() <= kSlotBytes.
// Errors: of `interruption`; kDeadlineExceeded.
Result<void> put(Mailbox& mailbox, std::span<const std::byte> frame, std::chrono::milliseconds timeout,
                 const Interruption& interruption);

// Copies the next frame out. Errors: the same; kCorruptData when its size is not that of `frame`.
Result<void> take(Mailbox& mailbox, std::span<std::byte> frame, std::chrono::milliseconds timeout,
                  const Interruption& interruption);

// Lets whoever sleeps on either end look at its interruption at once.
void wake(Mailbox& mailbox);

// Two mailboxes in memory that another process of this user can map.
class SharedMailboxes {
 public:
  using Token = std::array<std::byte, 16>;

  // What another process needs to find them. Plain bytes, sent as they are between processes of one host.
  struct Offer {
    pid_t pid;
    int file;
    Token token;
  };

  // Errors: what the system says.
  static Result<std::unique_ptr<SharedMailboxes>> make();
  // Maps those that another process has made. Errors: kNotFound when that is not to be found here, or not what it says.
  static Result<std::unique_ptr<SharedMailboxes>> open(const Offer& offer);
  ~SharedMailboxes();
  SharedMailboxes(const SharedMailboxes&) = delete;
  SharedMailboxes& operator=(const SharedMailboxes&) = delete;

  const Offer& offer() const { return offer_; }
  Mailbox& from_maker() { return memory_->mailboxes[0]; }
  Mailbox& to_maker() { return memory_->mailboxes[1]; }

  // No other process needs to find them any more.
  void close_file();

 private:
  struct Memory {
    Token token;
    Mailbox mailboxes[2];
  };
  SharedMailboxes() = default;
  Result<void> map(int file);

  Offer offer_{};
  Memory* memory_ = nullptr;
};

}  // namespace troupe::collective
