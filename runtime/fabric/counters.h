#pragma once

#include <atomic>
#include <cstdint>

namespace troupe::fabric {

// What FabricStats shows; written by all threads, each number on its own.
struct Counters {
  std::atomic<std::uint64_t> messages_sent{0};
  std::atomic<std::uint64_t> messages_received{0};
  std::atomic<std::uint64_t> bytes_sent{0};
  std::atomic<std::uint64_t> bytes_received{0};
  std::atomic<std::uint64_t> dropped_stale{0};
  std::atomic<std::uint64_t> dropped_unknown_actor{0};
  std::atomic<std::uint64_t> dropped_overload{0};
  std::atomic<std::uint64_t> dropped_unencodable{0};
  std::atomic<std::uint64_t> rejected_frames{0};
  std::atomic<std::uint64_t> queue_bytes{0};
  std::atomic<std::uint64_t> unreleased_bytes{0};

  static void add(std::atomic<std::uint64_t>& counter, std::uint64_t n = 1) {
    counter.fetch_add(n, std::memory_order_relaxed);
  }
  static void subtract(std::atomic<std::uint64_t>& counter, std::uint64_t n) {
    counter.fetch_sub(n, std::memory_order_relaxed);
  }
};

}  // namespace troupe::fabric
