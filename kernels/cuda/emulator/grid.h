#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/cuda/gpu.h"

namespace troupe::kernels::emulated {

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  std::size_t count() const { return std::size_t{x} * y * z; }
};

using Block = dim3;

// Knows the place of the launch, for messages. (clang 14 lacks std::source_location.)
struct Grid : dim3 {
  const char* file;
  int line;
  Grid(unsigned x, unsigned y = 1, unsigned z = 1, const char* file = __builtin_FILE(), int line = __builtin_LINE())
      : dim3(x, y, z), file(file), line(line) {}
  Grid(const dim3& size, const char* file = __builtin_FILE(), int line = __builtin_LINE())
      : dim3(size), file(file), line(line) {}
};

constexpr std::size_t kMaxDynamicShared = 163 * 1024;  // bytes, as compute capability 8.0 has

// What a Stream's handle points at. Everything runs at once, unless it is being recorded.
struct EmulatedStream {
  std::string error;  // of the first kernel that failed; nothing runs from then on
  std::vector<std::function<void()>>* recording = nullptr;

  // Runs or records it.
  void run(std::function<void()> work);
};

// The threads of a block as fibers of the calling thread. One block runs at a time in the process, which is what makes
// __shared__ memory a static variable: other threads' launches wait. A thread runs until it waits for others (at a
// barrier or a warp's operation), or ends. Every other block runs its threads backwards, so that what is not ordered by
// a barrier shows.
//
// A kernel whose threads wait for ever is abandoned, and the stream's error says where they wait.
void run_grid(EmulatedStream& stream, const Grid& grid, const Block& block, std::size_t dynamic_shared_bytes,
              const std::function<void()>& thread);

// The following are for code that runs as a thread of a block.

const dim3& thread_index();
const dim3& block_index();
const dim3& block_size();
const dim3& grid_size();
unsigned lane_index();        // within the warp
std::byte* dynamic_shared();  // each block finds it full of 0xff

void block_barrier();

// An operation of the lanes in `mask`, which all call it with the same `combine` and mask. When the last of them is
// there, combine(operands, mask) runs once; operands[lane] is what the lane gave.
using Combine = void (*)(void* const* operands, std::uint32_t mask);
void warp_operation(Combine combine, std::uint32_t mask, void* operands);

// A copy that happens as late as the waiting allows (cp.async).
void start_copy(void* shared, const void* global, std::size_t bytes, bool is_valid);
void end_copy_group();
void wait_for_copy_groups(std::size_t pending);  // until only so many are left

}  // namespace troupe::kernels::emulated
