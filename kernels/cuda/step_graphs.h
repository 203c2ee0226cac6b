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
  // Steps that are kept at a time, by kind of part and sizes, with all their pieces; the one that was not used for
  // longest makes room.
  static constexpr std::size_t kMostSteps = 64;

  explicit StepGraphs(GpuMemory& memory) : memory_(memory) {}

  // The first time that a part is asked for with these sizes, calls `work`, so that workspaces grow to what it needs;
  // the second time records and runs it; from then on repeats it. When device memory was released in between, it is
  // recorded anew. Errors: those of `work`, and of recording it.
  Result<void> run(StepPart part, std::span<const std::uint32_t> sizes, const std::function<Result<void>()>& work);

  // All recordings are void.
  void forget();

 private:
  struct Piece {
    bool was_used = false;
    std::unique_ptr<GpuGraph> graph;  // null until the second use
  };
  struct Step {
    StepPart::Kind kind;
    std::vector<std::uint32_t> sizes;
    std::vector<Piece> pieces;  // by their numbers
    std::uint64_t last_use = 0;
  };

  Step& step_of(StepPart::Kind kind, std::span<const std::uint32_t> sizes);
  Result<std::unique_ptr<GpuGraph>> record(const std::function<Result<void>()>& work);

  GpuMemory& memory_;
  std::vector<Step> steps_;  // at most kMostSteps
  std::uint64_t uses_ = 0;
  std::uint64_t releases_ = 0;  // of memory_, when the graphs were recorded
};

}  // namespace troupe::kernels
