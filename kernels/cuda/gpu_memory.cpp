#include "kernels/cuda/gpu_memory.h"

#include <algorithm>
#include <cstring>
#include <functional>
#include <utility>

namespace troupe::kernels {
namespace {

// Many steps' lists, and enough of a weight that its copy overlaps with the reading of the next part.
constexpr std::uint64_t kStagingBytes = std::uint64_t{32} << 20;
constexpr std::uint64_t kPieceBytes = std::uint64_t{8} << 20;
constexpr std::uint64_t kAlignment = 256;

Error no_memory(Error cause, std::uint64_t bytes, std::string_view purpose) {
  return std::move(cause).within(std::to_string(bytes) + " bytes for " + std::string(purpose));
}

}  // namespace

Result<std::unique_ptr<GpuMemory>> GpuMemory::make(std::unique_ptr<Gpu> gpu) {
  std::unique_ptr<GpuMemory> memory(new GpuMemory(std::move(gpu)));
  TROUPE_ASSIGN_OR_RETURN(void* const staging, memory->pinned_.allocate(kStagingBytes, "copies to the GPU"));
  memory->staging_ = static_cast<std::byte*>(staging);
  return memory;
}

GpuMemory::~GpuMemory() {
  if (staging_ != nullptr) pinned_.release(staging_, kStagingBytes);
}

Result<void*> GpuMemory::allocate(std::uint64_t bytes, std::string_view purpose) {
  auto memory = gpu_->allocate(bytes);
  if (!memory.ok()) return no_memory(std::move(memory).error(), bytes, purpose);
  gpu_->fill(*memory, 0, bytes);
  return *memory;
}

void GpuMemory::release(void* memory, std::uint64_t bytes) {
  note_change(memory, bytes);
  gpu_->free(memory);
  ++releases_;
}

void GpuMemory::upload(void* device, const void* host, std::uint64_t bytes) {
  note_change(device, bytes);
  auto* to = static_cast<std::byte*>(device);
  const auto* from = static_cast<const std::byte*>(host);
  while (bytes > 0) {
    const std::uint64_t piece = std::min(bytes, kPieceBytes);
    if (staged_ + piece > kStagingBytes) {
      if (auto done = gpu_->synchronize(); !done.ok()) return fail(std::move(done).error());
      staged_ = 0;
    }
    std::memcpy(staging_ + staged_, from, piece);
    gpu_->copy_to_device(to, staging_ + staged_, piece);
    staged_ += (piece + kAlignment - 1) / kAlignment * kAlignment;
    to += piece;
    from += piece;
    bytes -= piece;
  }
}

Result<void> GpuMemory::download(void* host, const void* device, std::uint64_t bytes) {
  if (bytes > 0) gpu_->copy_to_host(host, device, bytes);
  return synchronize();
}

void GpuMemory::copy(void* to, const void* from, std::uint64_t bytes) {
  note_change(to, bytes);
  if (bytes > 0) gpu_->copy(to, from, bytes);
}

void GpuMemory::clear(void* device, std::uint64_t bytes) {
  note_change(device, bytes);
  if (bytes > 0) gpu_->fill(device, 0, bytes);
}

Result<void> GpuMemory::synchronize() {
  if (auto done = gpu_->synchronize(); !done.ok()) {
    // Asking again later changes nothing, whatever the cause: the process has to end.
    Error error = std::move(done).error();
    error.code = ErrorCode::kInternal;
    return error;
  }
  staged_ = 0;
  if (error_) return *error_;
  return {};
}

void GpuMemory::fail(Error error) {
  if (!error_) error_ = std::move(error);
}

Result<void*> GpuMemory::Pinned::allocate(std::uint64_t bytes, std::string_view purpose) {
  auto memory = gpu_.allocate_pinned(bytes);
  if (!memory.ok()) return no_memory(std::move(memory).error(), bytes, purpose);
  std::memset(*memory, 0, bytes);
  return *memory;
}

void GpuMemory::Pinned::release(void* memory, std::uint64_t) { gpu_.free_pinned(memory); }

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
