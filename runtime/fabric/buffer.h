#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

namespace troupe::fabric {

// Told when the last reference to a buffer goes: this is how a receiver gives a sender its credit back.
// Thread-safety: called from whichever thread drops the last reference.
class ReleaseListener {
 public:
  virtual ~ReleaseListener() = default;
  virtual void buffer_released(std::uint64_t charge) noexcept = 0;
};

// Host memory with a reference count in front, 64-byte aligned, recycled by size. The contents are not zeroed.
// Thread-safety: the count is atomic; whoever writes must be the only holder.
class Buffer {
 public:
  Buffer() = default;

  // At least `bytes` bytes. Ends the process when memory is exhausted, as operator new does.
  static Buffer allocate(std::size_t bytes);
  // A view of memory that `owner` keeps alive.
  static Buffer wrap(std::shared_ptr<const void> owner, const std::byte* data, std::size_t bytes);

  Buffer(const Buffer& other) noexcept : block_(other.block_) { retain(); }
  Buffer(Buffer&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  Buffer& operator=(Buffer other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~Buffer() { release(); }

  explicit operator bool() const { return block_ != nullptr; }
  std::byte* data() const { return block_->data; }
  std::size_t capacity() const { return block_->capacity; }

  // `listener` hears of the end of this buffer. REQUIRES: not shared yet.
  void on_release(std::shared_ptr<ReleaseListener> listener, std::uint64_t charge);

 private:
  friend class BufferPool;
  struct alignas(64) Block {
    std::atomic<std::uint32_t> references{1};
    std::uint32_t size_class = 0;
    std::size_t capacity = 0;
    std::byte* data = nullptr;
    std::uint64_t charge = 0;
    std::shared_ptr<ReleaseListener> listener;
    std::shared_ptr<const void> owner;
  };

  explicit Buffer(Block* block) : block_(block) {}
  void retain() const noexcept {
    if (block_) block_->references.fetch_add(1, std::memory_order_relaxed);
  }
  void release() noexcept;

  Block* block_ = nullptr;
};

}  // namespace troupe::fabric
