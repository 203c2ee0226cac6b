#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cuda/gpu_memory.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

// Recordings of the work of steps (CUDA graphs), by what is baked into them: the sizes of launches. What a step's lists
// hold is read from device memory, whose addresses stay.
class StepGraphs {
 public:
  // Kept at a time; the one that was not used for longest makes room.
  static constexpr std::size_t kMostGraphs = 64;

  explicit StepGraphs(GpuMemory& memory) : memory_(memory) {}

  // The first time that a part is asked for with these sizes, calls `work`, so that workspaces grow to what it needs;
  // the second time records and runs it; from then on repeats it. When device memory was released in between, it is
  // recorded anew. Errors: those of `work`, and of recording it.
  Result<void> run(StepPart part, std::span<const std::uint32_t> sizes, const std::function<Result<void>()>& work);

  // All recordings are void.
  void forget();

 private:
  struct Entry {
    StepPart part;
    std::vector<std::uint32_t> sizes;
    std::unique_ptr<GpuGraph> graph;  // null until the second use
    std::uint64_t last_use = 0;
  };

  Entry* find(StepPart part, std::span<const std::uint32_t> sizes);
  void remember(StepPart part, std::span<const std::uint32_t> sizes);
  Result<std::unique_ptr<GpuGraph>> record(const std::function<Result<void>()>& work);

  GpuMemory& memory_;
  std::vector<Entry> entries_;  // at most kMostGraphs
  std::uint64_t uses_ = 0;
  std::uint64_t releases_ = 0;  // of memory_, when the graphs were recorded
};

}  // namespace troupe::kernels
