#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "kernels/device_memory.h"
#include "kernels/tensor.h"
#include "runtime/base/result.h"

namespace troupe::model {

// How full an arena is. All in bytes.
struct ArenaLevel {
  std::string_view arena;  // "weights", "kv", ...: for metrics
  std::uint64_t capacity = 0;
  std::uint64_t used = 0;
  std::uint64_t peak = 0;          // the most that was used
  std::uint64_t largest_free = 0;  // piece of what is free
};

// Memory of one purpose ("kv", "scratch"), taken from a device once and handed out in pieces that live as long as the
// arena: a step takes views, never memory. Zeroed. Movable; not thread-safe.
class Arena {
 public:
  // Every piece begins at a multiple of this, so that vector loads are aligned, and what the warps of a
  // GPU load begins where its memory's lines do.
  static constexpr std::size_t kAlignment = 256;

  // Bytes that a piece of `bytes` takes up.
  static constexpr std::uint64_t rounded(std::uint64_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  Arena() = default;
  // `memory` outlives the arena. Errors: kResourceExhausted when it does not give that much; it names `purpose` and the
  // bytes.
  static Result<Arena> create(std::uint64_t bytes, std::string_view purpose,
                              kernels::DeviceMemory& memory = kernels::host_memory());
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;

  // REQUIRES: rounded(bytes) <= capacity() - used()
  void* take(std::uint64_t bytes);

  // (rows, cols), contiguous.
  kernels::MatrixF32 take_matrix(std::uint64_t rows, std::uint64_t cols);

  std::uint64_t capacity() const { return capacity_; }
  std::uint64_t used() const { return used_; }

  // Pieces are never given back: what was used is the most that was, and what is free lies in one piece.
  ArenaLevel level(std::string_view arena) const { return {arena, capacity_, used_, used_, capacity_ - used_}; }

  // Times that any arena of this process has asked for memory. A step leaves it as it is.
  static std::uint64_t system_allocations();

 private:
  kernels::DeviceMemory* memory_ = nullptr;  // null while there is no data_
  std::byte* data_ = nullptr;
  std::uint64_t capacity_ = 0;
  std::uint64_t used_ = 0;
};

// Adds what was taken of the memory of a device that is not the host: by kernels and the group, beside the bytes in
// arenas ("workspaces"), in all ("device"), and of pinned memory ("pinned"); nothing where it is the host. Errors: what
// became of the device.
Result<void> add_device_levels(kernels::DeviceMemory& memory, std::uint64_t in_arenas, std::vector<ArenaLevel>& levels);

// What a shard takes of a device's memory.
struct ArenaBytes {
  std::uint64_t weights = 0;
  std::uint64_t kv = 0;
  std::uint64_t scratch = 0;
};

// Errors: kResourceExhausted when less is free now; it names each arena, what is free, and the limit to change.
Result<void> check_room(const ArenaBytes& wanted, kernels::DeviceMemory& memory);

}  // namespace troupe::model
