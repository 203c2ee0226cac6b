#pragma once

#include <cstring>
#include <functional>
#include <vector>

#include "kernels/device_memory.h"

namespace troupe::model::testing {

// A device's memory that copies as late as it may: only when somebody waits for it. Counts how often that is.
class LateMemory final : public kernels::DeviceMemory {
 public:
  bool is_host() const override { return false; }
  Result<void*> allocate(std::uint64_t bytes, std::string_view purpose) override {
    return kernels::host_memory().allocate(bytes, purpose);
  }
  void release(void* memory, std::uint64_t bytes) override { kernels::host_memory().release(memory, bytes); }
  Result<kernels::MemoryRoom> room() override { return free; }
  kernels::MemoryUse use() const override { return {}; }
  kernels::DeviceMemory& pinned() override { return kernels::host_memory(); }
  void upload(void* device, const void* host, std::uint64_t bytes) override {
    const auto* from = static_cast<const std::byte*>(host);
    work_.push_back(
        [device, copy = std::vector(from, from + bytes)] { std::memcpy(device, copy.data(), copy.size()); });
  }
  Result<void> download(void* host, const void* device, std::uint64_t bytes) override {
    copy(host, device, bytes);
    return synchronize();
  }
  void copy_in(void* device, const void* pinned, std::uint64_t bytes) override { copy(device, pinned, bytes); }
  void copy_out(void* pinned, const void* device, std::uint64_t bytes) override { copy(pinned, device, bytes); }
  void copy(void* to, const void* from, std::uint64_t bytes) override {
    work_.push_back([=] { std::memcpy(to, from, bytes); });
  }
  void copy_matrix(kernels::ConstMatrixF32 from, kernels::MatrixF32 to) override {
    work_.push_back([=] { kernels::host_memory().copy_matrix(from, to); });
  }
  void clear(void* device, std::uint64_t bytes) override {
    work_.push_back([=] { std::memset(device, 0, bytes); });
  }
  void notify(std::function<void(Result<void>)> done) override { done(synchronize()); }
  Result<void> synchronize() override {
    ++waits;
    for (const auto& work : work_) work();
    work_.clear();
    return {};
  }

  int waits = 0;
  kernels::MemoryRoom free;

 private:
  std::vector<std::function<void()>> work_;
};

}  // namespace troupe::model::testing
