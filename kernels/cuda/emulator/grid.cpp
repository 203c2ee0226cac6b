// glibc's checked longjmp takes a jump to another stack for a mistake.
#undef _FORTIFY_SOURCE

#include "kernels/cuda/emulator/grid.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cassert>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

#if defined(__SANITIZE_ADDRESS__)
#define TROUPE_ASAN_FIBERS 1
#elif defined(__SANITIZE_THREAD__)
#define TROUPE_TSAN_FIBERS 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TROUPE_ASAN_FIBERS 1
#elif __has_feature(thread_sanitizer)
#define TROUPE_TSAN_FIBERS 1
#endif
#endif
#ifdef TROUPE_ASAN_FIBERS
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#ifdef TROUPE_TSAN_FIBERS
#include <sanitizer/tsan_interface.h>
#endif

namespace troupe::kernels::emulated {
namespace {

constexpr unsigned kWarp = 32;
constexpr std::size_t kMaxThreads = 1024;
constexpr std::size_t kPage = 4096;
constexpr std::size_t kStackBytes = 64 * 1024;  // sanitizers need much of it

enum class Waits : std::uint8_t { kNot, kAtBarrier, kAtWarpOperation, kDone };

struct Copy {
  void* to;
  const void* from;
  std::size_t bytes;
  bool is_valid;
};

// A thread of the block.
struct Lane {
  dim3 index;
  Waits waits = Waits::kDone;
  Combine combine = nullptr;  // of the operation it waits at
  std::uint32_t mask = 0;
  void* operands = nullptr;
  std::vector<Copy> copies;              // not yet made
  std::vector<std::size_t> group_sizes;  // of them, in order; what is behind belongs to no group yet

  ucontext_t context;  // where it starts
  jmp_buf place;       // where it waits
  std::byte* stack = nullptr;
  bool is_started = false;
#ifdef TROUPE_ASAN_FIBERS
  void* fake_stack = nullptr;
#endif
#ifdef TROUPE_TSAN_FIBERS
  void* fiber = nullptr;
#endif
};

void make_copies(Lane& lane, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    const Copy& copy = lane.copies[i];
    if (copy.is_valid) {
      std::memcpy(copy.to, copy.from, copy.bytes);
    } else {
      std::memset(copy.to, 0, copy.bytes);
    }
  }
  lane.copies.erase(lane.copies.begin(), lane.copies.begin() + static_cast<std::ptrdiff_t>(count));
}

std::string to_string(const dim3& index) {
  return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

// The block that runs. Guarded by `running`.
class Machine {
 public:
  // Returns what went wrong, or nothing.
  std::string run_block(const std::function<void()>& thread, dim3 block_index, bool backwards) {
    thread_ = &thread;
    block_index_ = block_index;
    live_ = block_size_.count();
    at_barrier_ = 0;
    problem_.clear();
    if (dynamic_bytes_ > 0) std::memset(dynamic_.get(), 0xff, dynamic_bytes_);
    for (std::size_t i = 0; i < live_; ++i) prepare(lanes_[i], i);
    const std::size_t count = live_;
    while (live_ > 0) {
      bool any = false;
      for (std::size_t i = 0; i < count && problem_.empty(); ++i) {
        Lane& lane = lanes_[backwards ? count - 1 - i : i];
        if (lane.waits != Waits::kNot) continue;
        any = true;
        resume(lane);
      }
      if (problem_.empty() && !any && at_barrier_ == live_) {
        release_barrier();  // the others have ended
      } else if (problem_.empty() && !any) {
        describe_deadlock(count);
      }
      if (!problem_.empty()) {
        // Their stacks are never returned to.
        for (std::size_t i = 0; i < count; ++i) {
          if (lanes_[i].waits != Waits::kDone) lanes_[i].is_started = false;
        }
        break;
      }
    }
    return problem_;
  }

  void set_sizes(const dim3& grid, const dim3& block, std::size_t dynamic_bytes) {
    grid_size_ = grid;
    block_size_ = block;
    dynamic_bytes_ = dynamic_bytes;
    // Of exactly this size, so that AddressSanitizer sees what reads beyond it.
    void* memory = nullptr;
    if (dynamic_bytes > 0 && posix_memalign(&memory, 128, dynamic_bytes) != 0) throw std::bad_alloc();
    dynamic_.reset(static_cast<std::byte*>(memory));
    while (lanes_.size() < block.count()) lanes_.emplace_back();
  }

  Lane& lane() { return *current_; }
  std::size_t lane_number() const { return static_cast<std::size_t>(current_ - lanes_.data()); }

  void barrier() {
    if (++at_barrier_ == live_) return release_barrier();
    wait(Waits::kAtBarrier);
  }

  void warp_operation(Combine combine, std::uint32_t mask, void* operands) {
    Lane& self = *current_;
    self.combine = combine;
    self.mask = mask;
    self.operands = operands;
    self.waits = Waits::kAtWarpOperation;
    const std::size_t first = lane_number() / kWarp * kWarp;
    if ((mask >> (lane_number() - first) & 1) == 0) return fail("calls a warp operation whose mask leaves it out");
    void* all[kWarp] = {};
    for (unsigned i = 0; i < kWarp; ++i) {
      if ((mask >> i & 1) == 0) continue;
      if (first + i >= block_size_.count()) return fail("calls a warp operation with lanes that the block lacks");
      const Lane& other = lanes_[first + i];
      if (other.waits != Waits::kAtWarpOperation) return wait(Waits::kAtWarpOperation);
      if (other.combine != combine || other.mask != mask) {
        return fail("is at another warp operation, or with another mask, than a lane that its mask names");
      }
      all[i] = other.operands;
    }
    combine(all, mask);
    for (unsigned i = 0; i < kWarp; ++i) {
      if ((mask >> i & 1) != 0) lanes_[first + i].waits = Waits::kNot;
    }
  }

  const dim3& block_index() const { return block_index_; }
  const dim3& block_size() const { return block_size_; }
  const dim3& grid_size() const { return grid_size_; }
  std::byte* dynamic_shared() { return dynamic_.get(); }

 private:
  struct Free {
    void operator()(std::byte* memory) const { std::free(memory); }
  };

  void prepare(Lane& lane, std::size_t number) {
    const auto linear = static_cast<unsigned>(number);
    lane.index = {linear % block_size_.x, linear / block_size_.x % block_size_.y,
                  linear / block_size_.x / block_size_.y};
    lane.waits = Waits::kNot;
    lane.copies.clear();
    lane.group_sizes.clear();
  }

  void release_barrier() {
    at_barrier_ = 0;
    for (std::size_t i = 0; i < block_size_.count(); ++i) {
      if (lanes_[i].waits == Waits::kAtBarrier) lanes_[i].waits = Waits::kNot;
    }
  }

  // Ends the block, from within a thread of it, whose frames' objects are never destroyed.
  void fail(const char* what) {
    problem_ = "thread " + to_string(current_->index) + " of block " + to_string(block_index_) + " " + what;
    wait(Waits::kAtWarpOperation);
  }

  void describe_deadlock(std::size_t count) {
    std::size_t at_barrier = 0, at_operation = 0, ended = 0;
    const Lane* waiting = nullptr;
    for (std::size_t i = 0; i < count; ++i) {
      at_barrier += lanes_[i].waits == Waits::kAtBarrier;
      at_operation += lanes_[i].waits == Waits::kAtWarpOperation;
      ended += lanes_[i].waits == Waits::kDone;
      if (waiting == nullptr && lanes_[i].waits != Waits::kDone) waiting = &lanes_[i];
    }
    problem_ = "block " + to_string(block_index_) + " waits for ever: " + std::to_string(at_barrier) +
               " threads at a barrier, " + std::to_string(at_operation) + " at an operation of their warp, " +
               std::to_string(ended) + " ended; the first that waits is " + to_string(waiting->index);
  }

  void resume(Lane& lane) {
    current_ = &lane;
    const bool is_started = std::exchange(lane.is_started, true);
    if (!is_started) make_context(lane);
#ifdef TROUPE_ASAN_FIBERS
    __sanitizer_start_switch_fiber(&own_fake_stack_, lane.stack, kStackBytes);
#endif
#ifdef TROUPE_TSAN_FIBERS
    own_fiber_ = __tsan_get_current_fiber();
#endif
    // The first switch to a fiber is ucontext's; those after that are jumps, which leave out its system calls.
    if (_setjmp(own_place_) == 0) {
#ifdef TROUPE_TSAN_FIBERS
      __tsan_switch_to_fiber(lane.fiber, 0);
#endif
      if (is_started) _longjmp(lane.place, 1);
      setcontext(&lane.context);
    }
#ifdef TROUPE_ASAN_FIBERS
    __sanitizer_finish_switch_fiber(own_fake_stack_, nullptr, nullptr);
#endif
  }

  void wait(Waits waits) {
    current_->waits = waits;
    switch_back();
  }

  void switch_back() {
    Lane& self = *current_;
#ifdef TROUPE_ASAN_FIBERS
    __sanitizer_start_switch_fiber(&self.fake_stack, own_stack_, own_stack_bytes_);
#endif
    if (_setjmp(self.place) == 0) {
#ifdef TROUPE_TSAN_FIBERS
      __tsan_switch_to_fiber(own_fiber_, 0);
#endif
      _longjmp(own_place_, 1);
    }
#ifdef TROUPE_ASAN_FIBERS
    __sanitizer_finish_switch_fiber(self.fake_stack, &own_stack_, &own_stack_bytes_);
#endif
  }

  static void make_context(Lane& lane) {
    if (lane.stack == nullptr) make_stack(lane);
#ifdef TROUPE_ASAN_FIBERS
    __asan_unpoison_memory_region(lane.stack, kStackBytes);  // of what was abandoned there
#endif
#ifdef TROUPE_TSAN_FIBERS
    if (lane.fiber != nullptr) __tsan_destroy_fiber(lane.fiber);
    lane.fiber = __tsan_create_fiber(0);
#endif
    getcontext(&lane.context);
    lane.context.uc_stack.ss_sp = lane.stack;
    lane.context.uc_stack.ss_size = kStackBytes;
    lane.context.uc_link = nullptr;
    makecontext(&lane.context, &Machine::fiber, 0);
  }

  static void make_stack(Lane& lane) {
    void* memory =
        mmap(nullptr, kPage + kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    mprotect(memory, kPage, PROT_NONE);  // what grows too far ends the process instead of its neighbour
    lane.stack = static_cast<std::byte*>(memory) + kPage;
  }

  static void fiber();

  const std::function<void()>* thread_ = nullptr;
  dim3 grid_size_, block_size_, block_index_;
  std::size_t dynamic_bytes_ = 0;
  std::unique_ptr<std::byte, Free> dynamic_;
  std::vector<Lane> lanes_ = reserve_lanes();  // never reallocated: fibers refer to them
  std::size_t live_ = 0;
  std::size_t at_barrier_ = 0;
  std::string problem_;
  Lane* current_ = nullptr;
  jmp_buf own_place_;
#ifdef TROUPE_ASAN_FIBERS
  void* own_fake_stack_ = nullptr;
  const void* own_stack_ = nullptr;
  std::size_t own_stack_bytes_ = 0;
#endif
#ifdef TROUPE_TSAN_FIBERS
  void* own_fiber_ = nullptr;
#endif

  static std::vector<Lane> reserve_lanes() {
    std::vector<Lane> lanes;
    lanes.reserve(kMaxThreads);
    return lanes;
  }
};

std::mutex running;

// Its fibers' stacks are kept for the next launch, and go with the process.
Machine& machine() {
  static Machine& machine = *new Machine;
  return machine;
}

void Machine::fiber() {
  Machine& self = machine();
#ifdef TROUPE_ASAN_FIBERS
  __sanitizer_finish_switch_fiber(nullptr, &self.own_stack_, &self.own_stack_bytes_);
#endif
  for (;;) {  // one thread of one block after another
    (*self.thread_)();
    make_copies(*self.current_, self.current_->copies.size());
    --self.live_;
    self.wait(Waits::kDone);
  }
}

}  // namespace

void EmulatedStream::run(std::function<void()> work) {
  if (recording != nullptr) {
    recording->push_back(std::move(work));
  } else if (error.empty()) {
    work();
  }
}

void run_grid(EmulatedStream& stream, const Grid& grid, const Block& block, std::size_t dynamic_shared_bytes,
              const std::function<void()>& thread) {
  if (!stream.error.empty()) return;
  const auto fail = [&](const std::string& what) {
    stream.error = std::string("the kernel launched at ") + grid.file + ":" + std::to_string(grid.line) + ": " + what;
  };
  if (block.count() == 0 || block.count() > kMaxThreads) return fail("a block has 1 to 1024 threads");
  if (grid.count() == 0 || grid.y > 65535 || grid.z > 65535) return fail("a grid has 1 to 65535 blocks in y and z");
  if (dynamic_shared_bytes > kMaxDynamicShared) {
    return fail(std::to_string(dynamic_shared_bytes) + " bytes of shared memory, " + std::to_string(kMaxDynamicShared) +
                " are the most");
  }
  const std::lock_guard lock(running);
  machine().set_sizes(grid, block, dynamic_shared_bytes);
  bool backwards = false;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        const std::string problem = machine().run_block(thread, {x, y, z}, backwards);
        if (!problem.empty()) return fail(problem);
        backwards = !backwards;
      }
    }
  }
}

const dim3& thread_index() { return machine().lane().index; }
const dim3& block_index() { return machine().block_index(); }
const dim3& block_size() { return machine().block_size(); }
const dim3& grid_size() { return machine().grid_size(); }
unsigned lane_index() { return static_cast<unsigned>(machine().lane_number() % kWarp); }
std::byte* dynamic_shared() { return machine().dynamic_shared(); }

void block_barrier() { machine().barrier(); }

void warp_operation(Combine combine, std::uint32_t mask, void* operands) {
  machine().warp_operation(combine, mask, operands);
}

void start_copy(void* shared, const void* global, std::size_t bytes, bool is_valid) {
  machine().lane().copies.push_back({shared, global, bytes, is_valid});
}

void end_copy_group() {
  Lane& lane = machine().lane();
  std::size_t in_groups = 0;
  for (const std::size_t size : lane.group_sizes) in_groups += size;
  lane.group_sizes.push_back(lane.copies.size() - in_groups);
}

void wait_for_copy_groups(std::size_t pending) {
  Lane& lane = machine().lane();
  while (lane.group_sizes.size() > pending) {
    make_copies(lane, lane.group_sizes.front());
    lane.group_sizes.erase(lane.group_sizes.begin());
  }
}

}  // namespace troupe::kernels::emulated
