#include "kernels/cuda/gpu_memory.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <functional>
#include <utility>

#include "kernels/cuda/row_ops.h"

namespace troupe::kernels {
namespace {

constexpr std::uint64_t kAlignment = 256;

Error no_memory(Error cause, std::uint64_t bytes, std::string_view purpose) {
  return std::move(cause).within(std::to_string(bytes) + " bytes for " + std::string(purpose));
}

// Asking again later changes nothing, whatever the cause: the process has to end.
Result<void> for_good(Error error) {
  error.code = ErrorCode::kInternal;
  return error;
}

void count(MemoryUse& use, std::uint64_t bytes) {
  use.bytes += bytes;
  use.peak_bytes = std::max(use.peak_bytes, use.bytes);
}

}  // namespace

Result<std::unique_ptr<GpuMemory>> GpuMemory::make(std::unique_ptr<Gpu> gpu, const std::vector<int>& cores) {
  TROUPE_ASSIGN_OR_RETURN(auto team, Team::make(cores));
  std::unique_ptr<GpuMemory> memory(new GpuMemory(std::move(gpu), std::move(team)));
  for (Slot& slot : memory->slots_) {
    TROUPE_ASSIGN_OR_RETURN(slot.copied, memory->gpu_->make_event());
  }
  TROUPE_ASSIGN_OR_RETURN(void* const staging, memory->pinned_.allocate(kSlots * kSlotBytes, "copies to the GPU"));
  memory->staging_ = static_cast<std::byte*>(staging);
  return memory;
}

GpuMemory::~GpuMemory() {
  if (staging_ != nullptr) pinned_.release(staging_, kSlots * kSlotBytes);
}

Result<void*> GpuMemory::allocate(std::uint64_t bytes, std::string_view purpose) {
  auto memory = gpu_->allocate(bytes);
  if (!memory.ok()) return no_memory(std::move(memory).error(), bytes, purpose);
  count(use_, bytes);
  gpu_->fill(*memory, 0, bytes);
  return *memory;
}

void GpuMemory::release(void* memory, std::uint64_t bytes) {
  note_change(memory, bytes);
  gpu_->free(memory);
  use_.bytes -= bytes;
  ++releases_;
}

Result<MemoryRoom> GpuMemory::room() {
  TROUPE_ASSIGN_OR_RETURN(const GpuMemoryInfo info, gpu_->memory_info());
  return MemoryRoom{info.free_bytes, info.total_bytes};
}

// Room for so many bytes, at most kSlotBytes, that the device does not read any more; null when it failed.
std::byte* GpuMemory::staging_room(std::uint64_t bytes) {
  if (slot_used_ + bytes > kSlotBytes) {
    gpu_->record(*slots_[slot_].copied);
    slots_[slot_].is_recorded = true;
    slot_ = (slot_ + 1) % kSlots;
    slot_used_ = 0;
    if (Slot& next = slots_[slot_]; std::exchange(next.is_recorded, false)) {
      if (auto done = gpu_->wait(*next.copied); !done.ok()) {
        fail(std::move(done).error());
        return nullptr;
      }
    }
  }
  std::byte* const room = staging_ + slot_ * kSlotBytes + slot_used_;
  slot_used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  return room;
}

void GpuMemory::upload(void* device, const void* host, std::uint64_t bytes) {
  send(device, bytes, kAlignment, [host](std::uint64_t offset, std::span<std::byte> to) {
    std::memcpy(to.data(), static_cast<const std::byte*>(host) + offset, to.size());
  });
}

Result<void> GpuMemory::download(void* host, const void* device, std::uint64_t bytes) {
  if (bytes > 0) gpu_->copy_to_host(host, device, bytes);
  return synchronize();
}

void GpuMemory::copy_in(void* device, const void* pinned, std::uint64_t bytes) {
  note_change(device, bytes);
  if (bytes > 0) gpu_->copy_to_device(device, pinned, bytes);
}

void GpuMemory::copy_out(void* pinned, const void* device, std::uint64_t bytes) {
  if (bytes > 0) gpu_->copy_to_host(pinned, device, bytes);
}

void GpuMemory::copy(void* to, const void* from, std::uint64_t bytes) {
  note_change(to, bytes);
  if (bytes > 0) gpu_->copy(to, from, bytes);
}

void GpuMemory::copy_matrix(ConstMatrixF32 from, MatrixF32 to) {
  assert(from.rows == to.rows && from.cols == to.cols);
  note_change(to.data, to.rows * to.row_stride * sizeof(float));
  const GatherRowsArgs args = {from.data, from.row_stride, nullptr, to.data, to.row_stride, to.rows, to.cols};
  TROUPE_GPU_CALL(gather_rows, gpu_->stream(), args);
}

void GpuMemory::clear(void* device, std::uint64_t bytes) {
  note_change(device, bytes);
  if (bytes > 0) gpu_->fill(device, 0, bytes);
}

Result<void> GpuMemory::synchronize() {
  if (auto done = gpu_->synchronize(); !done.ok()) return for_good(std::move(done).error());
  for (Slot& slot : slots_) slot.is_recorded = false;
  slot_used_ = 0;
  if (error_) return *error_;
  return {};
}

void GpuMemory::notify(std::function<void(Result<void>)> done) {
  if (error_) return done(*error_);
  gpu_->notify([done = std::move(done)](Result<void> outcome) {
    done(outcome.ok() ? std::move(outcome) : for_good(std::move(outcome).error()));
  });
}

void GpuMemory::fail(Error error) {
  if (!error_) error_ = std::move(error);
}

Result<void*> GpuMemory::Pinned::allocate(std::uint64_t bytes, std::string_view purpose) {
  auto memory = gpu_.allocate_pinned(bytes);
  if (!memory.ok()) return no_memory(std::move(memory).error(), bytes, purpose);
  std::memset(*memory, 0, bytes);
  count(use_, bytes);
  return *memory;
}

void GpuMemory::Pinned::release(void* memory, std::uint64_t bytes) {
  gpu_.free_pinned(memory);
  use_.bytes -= bytes;
}

void GpuMemory::Pinned::upload(void* device, const void* host, std::uint64_t bytes) { copy(device, host, bytes); }

Result<void> GpuMemory::Pinned::download(void* host, const void* device, std::uint64_t bytes) {
  copy(host, device, bytes);
  return {};
}

void GpuMemory::Pinned::copy(void* to, const void* from, std::uint64_t bytes) { host_memory().copy(to, from, bytes); }

void GpuMemory::Pinned::clear(void* device, std::uint64_t bytes) { host_memory().clear(device, bytes); }

void GpuMemory::watch(const void* memory, std::uint64_t bytes) {
  watched_ = static_cast<const std::byte*>(memory);
  watched_bytes_ = bytes;
  watched_has_changed_ = false;
}

void GpuMemory::note_change(const void* memory, std::uint64_t bytes) {
  const std::less<> before;
  const auto* first = static_cast<const std::byte*>(memory);
  if (before(first, watched_ + watched_bytes_) && before(watched_, first + bytes)) watched_has_changed_ = true;
}

}  // namespace troupe::kernels
