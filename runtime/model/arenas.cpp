#include "runtime/model/arenas.h"

#include <sys/mman.h>

#include <atomic>
#include <cassert>
#include <limits>
#include <string>
#include <utility>

namespace troupe::model {
namespace {

std::atomic<std::uint64_t> allocations{0};

}  // namespace

Result<Arena> Arena::create(std::uint64_t bytes, std::string_view purpose) {
  Arena arena;
  if (bytes == 0) return arena;
  void* memory = MAP_FAILED;
  if (bytes <= std::numeric_limits<std::size_t>::max() / 2) {
    allocations.fetch_add(1, std::memory_order_relaxed);
    memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  }
  if (memory == MAP_FAILED) {
    return resource_exhausted("the system does not give " + std::to_string(bytes) + " bytes for " +
                              std::string(purpose));
  }
  arena.data_ = static_cast<std::byte*>(memory);
  arena.capacity_ = bytes;
  return arena;
}

Arena::~Arena() {
  if (data_ != nullptr) ::munmap(data_, capacity_);
}

Arena::Arena(Arena&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      capacity_(std::exchange(other.capacity_, 0)),
      used_(std::exchange(other.used_, 0)) {}

Arena& Arena::operator=(Arena&& other) noexcept {
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

}  // namespace troupe::model
