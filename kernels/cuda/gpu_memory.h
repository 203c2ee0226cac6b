#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "kernels/cuda/gpu.h"
#include "kernels/device_memory.h"

namespace troupe::kernels {

// The memory of one GPU, which it owns. What goes to the device passes through one piece of pinned memory, in the order
// of the stream: nothing waits, unless more is sent between two calls of download() than that piece holds.
class GpuMemory final : public DeviceMemory {
 public:
  // Errors: no memory for the staging area.
  static Result<std::unique_ptr<GpuMemory>> make(std::unique_ptr<Gpu> gpu);
  ~GpuMemory() override;

  Gpu& gpu() { return *gpu_; }

  bool is_host() const override { return false; }
  Result<void*> allocate(std::uint64_t bytes, std::string_view purpose) override;
  void release(void* memory, std::uint64_t bytes) override;
  DeviceMemory& pinned() override { return pinned_; }
  void upload(void* device, const void* host, std::uint64_t bytes) override;
  Result<void> download(void* host, const void* device, std::uint64_t bytes) override;
  void copy(void* to, const void* from, std::uint64_t bytes) override;
  void clear(void* device, std::uint64_t bytes) override;
  Result<void> synchronize() override;

  // Pieces of device memory that were released so far: what was recorded before may use them.
  std::uint64_t releases() const { return releases_; }

  // Keeps the first error of what returns none itself: it comes out of download() and synchronize().
  void fail(Error error);
  bool failed() const { return error_.has_value(); }

  // Whether anything was copied to the place that was watched last, other than by operations, or it was released.
  void watch(const void* memory, std::uint64_t bytes);
  bool watched_has_changed() const { return watched_has_changed_; }

 private:
  // Host memory that the driver has pinned.
  class Pinned final : public DeviceMemory {
   public:
    explicit Pinned(Gpu& gpu) : gpu_(gpu) {}
    bool is_host() const override { return true; }
    Result<void*> allocate(std::uint64_t bytes, std::string_view purpose) override;
    void release(void* memory, std::uint64_t bytes) override;
    DeviceMemory& pinned() override { return *this; }
    void upload(void* device, const void* host, std::uint64_t bytes) override;
    Result<void> download(void* host, const void* device, std::uint64_t bytes) override;
    void copy(void* to, const void* from, std::uint64_t bytes) override;
    void clear(void* device, std::uint64_t bytes) override;
    Result<void> synchronize() override { return {}; }

   private:
    Gpu& gpu_;
  };

  void note_change(const void* memory, std::uint64_t bytes);

  explicit GpuMemory(std::unique_ptr<Gpu> gpu) : gpu_(std::move(gpu)), pinned_(*gpu_) {}

  const std::unique_ptr<Gpu> gpu_;
  Pinned pinned_;
  std::byte* staging_ = nullptr;  // (kStagingBytes), pinned
  std::uint64_t staged_ = 0;      // bytes of it that the stream may not have read yet
  std::uint64_t releases_ = 0;
  std::optional<Error> error_;
  const std::byte* watched_ = nullptr;
  std::uint64_t watched_bytes_ = 0;
  bool watched_has_changed_ = false;
};

}  // namespace troupe::kernels
