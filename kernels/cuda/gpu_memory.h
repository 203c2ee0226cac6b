#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "kernels/cpu/team.h"
#include "kernels/cuda/gpu.h"
#include "kernels/device_memory.h"

namespace troupe::kernels {

// The memory of one GPU, which it owns. What goes to the device passes through a ring of pinned slots, in the order of
// the stream: while the device copies out of one, the host writes to the next, and it waits only for the copy out of
// the slot that it comes to.
class GpuMemory final : public DeviceMemory {
 public:
  static constexpr std::uint64_t kSlotBytes = std::uint64_t{8} << 20;
  static constexpr std::size_t kSlots = 4;

  // cores: of threads that help to write what is large, the calling thread being the first; empty = none help.
  // Errors: no memory for the slots; a core that this process may not use.
  static Result<std::unique_ptr<GpuMemory>> make(std::unique_ptr<Gpu> gpu, const std::vector<int>& cores = {});
  ~GpuMemory() override;

  Gpu& gpu() { return *gpu_; }

  bool is_host() const override { return false; }
  Gpu* gpu_or_null() override { return gpu_.get(); }
  Result<void*> allocate(std::uint64_t bytes, std::string_view purpose) override;
  void release(void* memory, std::uint64_t bytes) override;
  Result<MemoryRoom> room() override;
  MemoryUse use() const override { return use_; }
  DeviceMemory& pinned() override { return pinned_; }
  void upload(void* device, const void* host, std::uint64_t bytes) override;
  Result<void> download(void* host, const void* device, std::uint64_t bytes) override;
  void copy_in(void* device, const void* pinned, std::uint64_t bytes) override;
  void copy_out(void* pinned, const void* device, std::uint64_t bytes) override;
  void copy(void* to, const void* from, std::uint64_t bytes) override;
  void copy_matrix(ConstMatrixF32 from, MatrixF32 to) override;
  void clear(void* device, std::uint64_t bytes) override;
  Result<void> synchronize() override;
  void notify(std::function<void(Result<void>)> done) override;

  // device = what write(offset, to) makes: it fills `to` with the bytes from `offset` on. Parts begin at multiples of
  // `grain`, and end there or with `bytes`; several threads write parts at a time. Everything is written when this
  // returns. REQUIRES: 0 < grain <= kSlotBytes
  template <class Write>
  void send(void* device, std::uint64_t bytes, std::uint64_t grain, const Write& write) {
    note_change(device, bytes);
    const std::uint64_t most = kSlotBytes / grain * grain;
    for (std::uint64_t offset = 0; offset < bytes; offset += most) {
      const std::uint64_t piece = std::min(bytes - offset, most);
      std::byte* const staging = staging_room(piece);
      if (staging == nullptr) return;
      const std::uint64_t grains = (piece + grain - 1) / grain;
      const std::uint64_t parts = std::clamp<std::uint64_t>(piece / kPartBytes, 1, grains);
      team_->run(parts, [&](std::size_t part, std::size_t) {
        const std::uint64_t first = grains * part / parts * grain;
        const std::uint64_t end = std::min(grains * (part + 1) / parts * grain, piece);
        write(offset + first, std::span(staging + first, end - first));
      });
      gpu_->copy_to_device(static_cast<std::byte*>(device) + offset, staging, piece);
    }
  }

  // Pieces of device memory that were released so far: what was recorded before may use them.
  std::uint64_t releases() const { return releases_; }

  // Keeps the first error of what returns none itself: it comes out of download() and synchronize().
  void fail(Error error);
  bool failed() const { return error_.has_value(); }

  // Whether anything was copied to the place that was watched last, other than by operations, or it was released.
  void watch(const void* memory, std::uint64_t bytes);
  bool watched_has_changed() const { return watched_has_changed_; }

 private:
  // What one thread writes at a time: some tens of microseconds.
  static constexpr std::uint64_t kPartBytes = std::uint64_t{256} << 10;

  // Host memory that the driver has pinned.
  class Pinned final : public DeviceMemory {
   public:
    explicit Pinned(Gpu& gpu) : gpu_(gpu) {}
    bool is_host() const override { return true; }
    Result<void*> allocate(std::uint64_t bytes, std::string_view purpose) override;
    void release(void* memory, std::uint64_t bytes) override;
    Result<MemoryRoom> room() override { return host_memory().room(); }
    MemoryUse use() const override { return use_; }
    DeviceMemory& pinned() override { return *this; }
    void upload(void* device, const void* host, std::uint64_t bytes) override;
    Result<void> download(void* host, const void* device, std::uint64_t bytes) override;
    void copy_in(void* device, const void* pinned, std::uint64_t bytes) override { copy(device, pinned, bytes); }
    void copy_out(void* pinned, const void* device, std::uint64_t bytes) override { copy(pinned, device, bytes); }
    void copy(void* to, const void* from, std::uint64_t bytes) override;
    void copy_matrix(ConstMatrixF32 from, MatrixF32 to) override { host_memory().copy_matrix(from, to); }
    void clear(void* device, std::uint64_t bytes) override;
    Result<void> synchronize() override { return {}; }
    void notify(std::function<void(Result<void>)> done) override { done({}); }

   private:
    Gpu& gpu_;
    MemoryUse use_;
  };

  struct Slot {
    std::unique_ptr<GpuEvent> copied;
    bool is_recorded = false;
  };

  GpuMemory(std::unique_ptr<Gpu> gpu, std::unique_ptr<Team> team)
      : gpu_(std::move(gpu)), team_(std::move(team)), pinned_(*gpu_) {}

  std::byte* staging_room(std::uint64_t bytes);
  void note_change(const void* memory, std::uint64_t bytes);

  const std::unique_ptr<Gpu> gpu_;
  const std::unique_ptr<Team> team_;
  Pinned pinned_;
  MemoryUse use_;
  std::byte* staging_ = nullptr;  // (kSlots, kSlotBytes), pinned
  std::array<Slot, kSlots> slots_;
  std::size_t slot_ = 0;         // that is written to
  std::uint64_t slot_used_ = 0;  // bytes of it
  std::uint64_t releases_ = 0;
  std::optional<Error> error_;
  const std::byte* watched_ = nullptr;
  std::uint64_t watched_bytes_ = 0;
  bool watched_has_changed_ = false;
};

}  // namespace troupe::kernels
