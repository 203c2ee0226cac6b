#include "runtime/model/read_ahead.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <utility>

namespace troupe::model {
namespace {

// The system reads no more than its read-ahead size, or what the device takes at once, for each request, and forgets
// the rest; most devices take this much.
constexpr std::size_t kRequestBytes = std::size_t{1} << 20;

}  // namespace

ReadAhead::ReadAhead(std::vector<std::span<const std::byte>> parts) : parts_(std::move(parts)), starts_{0} {
  for (const auto part : parts_) starts_.push_back(starts_.back() + part.size());
  thread_ = std::thread([this] { run(); });
}

ReadAhead::~ReadAhead() {
  stopped_.store(true, std::memory_order_relaxed);
  limit_.store(std::numeric_limits<std::uint64_t>::max(), std::memory_order_release);
  limit_.notify_one();
  thread_.join();
}

void ReadAhead::advance(std::size_t part) {
  limit_.store(starts_[part] + kWindowBytes, std::memory_order_release);
  limit_.notify_one();
}

void ReadAhead::run() {
  const auto page = static_cast<std::uintptr_t>(::sysconf(_SC_PAGESIZE));
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    for (std::size_t offset = 0; offset < parts_[i].size(); offset += kRequestBytes) {
      std::uint64_t limit = limit_.load(std::memory_order_acquire);
      while (starts_[i] + offset >= limit) {
        limit_.wait(limit, std::memory_order_acquire);
        limit = limit_.load(std::memory_order_acquire);
      }
      if (stopped_.load(std::memory_order_relaxed)) return;
      const auto begin = reinterpret_cast<std::uintptr_t>(parts_[i].data() + offset) / page * page;
      const auto end =
          reinterpret_cast<std::uintptr_t>(parts_[i].data()) + std::min(parts_[i].size(), offset + kRequestBytes);
      static_cast<void>(::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_WILLNEED));
    }
  }
}

}  // namespace troupe::model
