#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>
#include <thread>
#include <vector>

namespace troupe::model {

// Has the system read parts of mapped files before somebody touches them: a thread of its own that stays a bounded
// way ahead, so that storage works while weights are packed. Helps or does nothing; never fails.
//
// Thread-safety: one thread calls advance().
class ReadAhead {
 public:
  static constexpr std::uint64_t kWindowBytes = std::uint64_t{256} << 20;  // ahead of advance()

  // The parts in the order in which they will be touched. They stay mapped as long as this object lives.
  explicit ReadAhead(std::vector<std::span<const std::byte>> parts);
  ~ReadAhead();
  ReadAhead(const ReadAhead&) = delete;
  ReadAhead& operator=(const ReadAhead&) = delete;

  // The parts before `part` have been touched.
  void advance(std::size_t part);

 private:
  void run();

  const std::vector<std::span<const std::byte>> parts_;
  std::vector<std::uint64_t> starts_;  // (parts + 1): bytes of all parts before
  // Bytes that may be read so far; beyond all of them once the thread is to end.
  std::atomic<std::uint64_t> limit_ = kWindowBytes;
  std::atomic<bool> stopped_ = false;
  std::thread thread_;
};

}  // namespace troupe::model
