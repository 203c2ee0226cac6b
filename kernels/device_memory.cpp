#include "kernels/device_memory.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cassert>
#include <cstring>
#include <limits>
#include <string>

namespace troupe::kernels {
namespace {

class HostMemory final : public DeviceMemory {
 public:
  bool is_host() const override { return true; }

  Result<void*> allocate(std::uint64_t bytes, std::string_view purpose) override {
    void* memory = MAP_FAILED;
    if (bytes <= std::numeric_limits<std::size_t>::max() / 2) {
      memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    if (memory != MAP_FAILED) {
      count(bytes);
      return memory;
    }
    return resource_exhausted("the system does not give " + std::to_string(bytes) + " bytes for " +
                              std::string(purpose));
  }
  void release(void* memory, std::uint64_t bytes) override {
    ::munmap(memory, bytes);
    bytes_.fetch_sub(bytes, std::memory_order_relaxed);
  }

  // What caches of files have counts as taken.
  Result<MemoryRoom> room() override {
    const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
    return MemoryRoom{page * static_cast<std::uint64_t>(::sysconf(_SC_AVPHYS_PAGES)),
                      page * static_cast<std::uint64_t>(::sysconf(_SC_PHYS_PAGES))};
  }
  MemoryUse use() const override {
    return {bytes_.load(std::memory_order_relaxed), peak_bytes_.load(std::memory_order_relaxed)};
  }

  DeviceMemory& pinned() override { return *this; }

  void upload(void* device, const void* host, std::uint64_t bytes) override { copy(device, host, bytes); }
  Result<void> download(void* host, const void* device, std::uint64_t bytes) override {
    copy(host, device, bytes);
    return {};
  }
  void copy_in(void* device, const void* pinned, std::uint64_t bytes) override { copy(device, pinned, bytes); }
  void copy_out(void* pinned, const void* device, std::uint64_t bytes) override { copy(pinned, device, bytes); }
  void copy(void* to, const void* from, std::uint64_t bytes) override {
    if (bytes != 0) std::memcpy(to, from, bytes);
  }
  void copy_matrix(ConstMatrixF32 from, MatrixF32 to) override {
    assert(from.rows == to.rows && from.cols == to.cols);
    for (std::size_t row = 0; row < to.rows; ++row) std::copy_n(from.row(row), to.cols, to.row(row));
  }
  void clear(void* device, std::uint64_t bytes) override {
    if (bytes != 0) std::memset(device, 0, bytes);
  }
  Result<void> synchronize() override { return {}; }
  void notify(std::function<void(Result<void>)> done) override { done({}); }

 private:
  void count(std::uint64_t bytes) {
    const std::uint64_t now = bytes_.fetch_add(bytes, std::memory_order_relaxed) + bytes;
    std::uint64_t peak = peak_bytes_.load(std::memory_order_relaxed);
    while (peak < now && !peak_bytes_.compare_exchange_weak(peak, now, std::memory_order_relaxed)) {
    }
  }

  std::atomic<std::uint64_t> bytes_ = 0;
  std::atomic<std::uint64_t> peak_bytes_ = 0;
};

}  // namespace

DeviceMemory& host_memory() {
  static HostMemory memory;
  return memory;
}

}  // namespace troupe::kernels
