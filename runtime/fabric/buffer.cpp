#include "runtime/fabric/buffer.h"

#include <sys/mman.h>

#include <array>
#include <bit>
#include <cassert>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace troupe::fabric {
namespace {

constexpr std::uint32_t kSmallestClass = 8;                  // 256 bytes
constexpr std::uint32_t kLargestClass = 30;                  // 1 GiB
constexpr std::uint32_t kNotPooled = 0;                      // wrapped, or larger than any class
constexpr std::size_t kRetainedClassBytes = 32 << 20;        // free memory kept of one class ...
constexpr std::size_t kRetainedClassBlocks = 2;              // ... but always so many blocks
constexpr std::size_t kLargestRetainedBytes = 128ULL << 20;  // of one block: larger ones go back to the system
constexpr std::size_t kHugePageBytes = 2 << 20;              // of blocks that are at least as large
// Beyond a power of two, so that an attachment of one fits together with its message's metadata.
constexpr std::size_t kSlackBytes = 4 << 10;
constexpr std::uint32_t kFirstClassWithSlack = 16;  // 64 KiB

}  // namespace

// Free blocks by size class. Like malloc it serves the whole process: buffers outlive the fabrics that filled them.
// It is never destroyed, because buffers may be released while static objects are.
class BufferPool {
 public:
  static BufferPool& instance() {
    static BufferPool* pool = new BufferPool;
    return *pool;
  }

  Buffer::Block* take(std::size_t bytes) {
    auto size_class = class_of(bytes);
    if (size_class > kLargestClass) return create(bytes, kNotPooled);
    auto& list = lists_[size_class];
    {
      std::lock_guard lock(list.mutex);
      if (!list.blocks.empty()) {
        auto* block = list.blocks.back();
        list.blocks.pop_back();
        block->references.store(1, std::memory_order_relaxed);
        return block;
      }
    }
    return create(capacity_of(size_class), size_class);
  }

  void give_back(Buffer::Block* block) noexcept {
    if (block->size_class != kNotPooled && block->capacity <= kLargestRetainedBytes) {
      auto& list = lists_[block->size_class];
      std::lock_guard lock(list.mutex);
      if (list.blocks.size() < std::max(kRetainedClassBlocks, kRetainedClassBytes / block->capacity)) {
        list.blocks.push_back(block);  // capacity was reserved when the block was created
        return;
      }
    }
    destroy(block);
  }

  static void destroy(Buffer::Block* block) noexcept {
    block->~Block();
    std::free(block);
  }

  static Buffer::Block* allocate_block(std::size_t bytes) {
    std::size_t alignment = alignof(Buffer::Block);
    if (bytes >= kHugePageBytes) alignment = kHugePageBytes;
    auto rounded = (sizeof(Buffer::Block) + bytes + alignment - 1) / alignment * alignment;
    void* memory = std::aligned_alloc(alignment, rounded);
    if (!memory) throw std::bad_alloc();
    // A wish: without huge pages copying a large message costs a fault and a page table entry every 4 KiB.
    if (alignment == kHugePageBytes) madvise(memory, rounded, MADV_HUGEPAGE);
    return new (memory) Buffer::Block;
  }

 private:
  static std::size_t capacity_of(std::uint32_t size_class) {
    return (std::size_t{1} << size_class) + (size_class >= kFirstClassWithSlack ? kSlackBytes : 0);
  }
  static std::uint32_t class_of(std::size_t bytes) {
    auto size_class = std::max(kSmallestClass, static_cast<std::uint32_t>(std::bit_width(bytes ? bytes - 1 : 0)));
    if (size_class > kFirstClassWithSlack && bytes <= capacity_of(size_class - 1)) --size_class;
    return size_class;
  }

  struct FreeList {
    std::mutex mutex;
    std::vector<Buffer::Block*> blocks;
  };

  Buffer::Block* create(std::size_t capacity, std::uint32_t size_class) {
    auto* block = allocate_block(capacity);
    block->size_class = size_class;
    block->capacity = capacity;
    block->data = reinterpret_cast<std::byte*>(block + 1);
    if (size_class != kNotPooled) {
      auto& list = lists_[size_class];
      std::lock_guard lock(list.mutex);
      if (list.blocks.capacity() == 0) {
        list.blocks.reserve(std::max(kRetainedClassBlocks, kRetainedClassBytes / capacity));
      }
    }
    return block;
  }

  std::array<FreeList, kLargestClass + 1> lists_;
};

Buffer Buffer::allocate(std::size_t bytes) { return Buffer(BufferPool::instance().take(bytes)); }

Buffer Buffer::wrap(std::shared_ptr<const void> owner, const std::byte* data, std::size_t bytes) {
  auto* block = BufferPool::allocate_block(0);
  block->capacity = bytes;
  block->data = const_cast<std::byte*>(data);  // Attachment hands out const memory only
  block->owner = std::move(owner);
  return Buffer(block);
}

void Buffer::on_release(std::shared_ptr<ReleaseListener> listener, std::uint64_t charge) {
  assert(block_->references.load(std::memory_order_relaxed) == 1);
  block_->listener = std::move(listener);
  block_->charge = charge;
}

void Buffer::release() noexcept {
  // Acquire-release: what other holders did with the memory happens before it is used again.
  if (!block_ || block_->references.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  auto listener = std::move(block_->listener);
  auto charge = block_->charge;
  if (block_->size_class == kNotPooled) {
    BufferPool::destroy(block_);
  } else {
    BufferPool::instance().give_back(block_);
  }
  block_ = nullptr;
  if (listener) listener->buffer_released(charge);
}

}  // namespace troupe::fabric
