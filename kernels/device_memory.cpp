#include "kernels/device_memory.h"

#include <sys/mman.h>

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
    if (memory != MAP_FAILED) return memory;
    return resource_exhausted("the system does not give " + std::to_string(bytes) + " bytes for " +
                              std::string(purpose));
  }
  void release(void* memory, std::uint64_t bytes) override { ::munmap(memory, bytes); }

  DeviceMemory& pinned() override { return *this; }

  void upload(void* device, const void* host, std::uint64_t bytes) override { copy(device, host, bytes); }
  Result<void> download(void* host, const void* device, std::uint64_t bytes) override {
    copy(host, device, bytes);
    return {};
  }
  void copy(void* to, const void* from, std::uint64_t bytes) override {
    if (bytes != 0) std::memcpy(to, from, bytes);
  }
  void clear(void* device, std::uint64_t bytes) override {
    if (bytes != 0) std::memset(device, 0, bytes);
  }
  Result<void> synchronize() override { return {}; }
  void notify(std::function<void(Result<void>)> done) override { done({}); }
};

}  // namespace

DeviceMemory& host_memory() {
  static HostMemory memory;
  return memory;
}

}  // namespace troupe::kernels
