#include "runtime/model/arenas.h"

#include <algorithm>

#include <atomic>
#include <cassert>
#include <string>
#include <utility>

namespace troupe::model {
namespace {

std::atomic<std::uint64_t> allocations{0};

}  // namespace

Result<Arena> Arena::create(std::uint64_t bytes, std::string_view purpose, kernels::DeviceMemory& memory) {
  Arena arena;
  if (bytes == 0) return arena;
  allocations.fetch_add(1, std::memory_order_relaxed);
  TROUPE_ASSIGN_OR_RETURN(void* const data, memory.allocate(bytes, purpose));
  arena.memory_ = &memory;
  arena.data_ = static_cast<std::byte*>(data);
  arena.capacity_ = bytes;
  return arena;
}

Arena::~Arena() {
  if (data_ != nullptr) memory_->release(data_, capacity_);
}

Arena::Arena(Arena&& other) noexcept
    : memory_(std::exchange(other.memory_, nullptr)),
      data_(std::exchange(other.data_, nullptr)),
      capacity_(std::exchange(other.capacity_, 0)),
      used_(std::exchange(other.used_, 0)) {}

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(memory_, other.memory_);
  std::swap(data_, other.data_);
  std::swap(capacity_, other.capacity_);
  std::swap(used_, other.used_);
  return *this;
}

void* Arena::take(std::uint64_t bytes) {
  const std::uint64_t size = rounded(bytes);
  assert(size <= capacity_ - used_);
  return data_ + std::exchange(used_, used_ + size);
}

kernels::MatrixF32 Arena::take_matrix(std::uint64_t rows, std::uint64_t cols) {
  if (rows == 0 || cols == 0) return {};
  return {static_cast<float*>(take(rows * cols * sizeof(float))), rows, cols};
}

std::uint64_t Arena::system_allocations() { return allocations.load(std::memory_order_relaxed); }

Result<void> add_device_levels(kernels::DeviceMemory& memory, std::uint64_t in_arenas,
                               std::vector<ArenaLevel>& levels) {
  if (memory.is_host()) return {};
  TROUPE_ASSIGN_OR_RETURN(const kernels::MemoryRoom room, memory.room());
  const kernels::MemoryUse device = memory.use(), pinned = memory.pinned().use();
  in_arenas = std::min(in_arenas, device.bytes);
  const std::uint64_t others = device.bytes - in_arenas;
  levels.push_back({"workspaces", others, others, device.peak_bytes - in_arenas, 0});
  levels.push_back({"device", room.total_bytes, device.bytes, device.peak_bytes, room.free_bytes});
  levels.push_back({"pinned", pinned.bytes, pinned.bytes, pinned.peak_bytes, 0});
  return {};
}

Result<void> check_room(const ArenaBytes& wanted, kernels::DeviceMemory& memory) {
  TROUPE_ASSIGN_OR_RETURN(const kernels::MemoryRoom room, memory.room());
  const std::uint64_t without_kv = wanted.weights + wanted.scratch;
  if (without_kv + wanted.kv <= room.free_bytes) return {};
  const std::string text = std::to_string(room.free_bytes) + " of the device's " + std::to_string(room.total_bytes) +
                           " bytes are free; the weights take " + std::to_string(wanted.weights) + ", KV pages " +
                           std::to_string(wanted.kv) + " (limit kv_memory) and scratch " +
                           std::to_string(wanted.scratch) + " (limits max_batch_tokens, max_batch_sequences): ";
  if (without_kv < room.free_bytes) {
    return resource_exhausted(
        text + "lower limits.kv_memory to " + std::to_string(room.free_bytes - without_kv) + " or less", "kv_memory");
  }
  return resource_exhausted(text + "quantise the model, share it out among more devices, or end who uses this one");
}

}  // namespace troupe::model
