#include "kernels/cuda/step_graphs.h"

#include <algorithm>
#include <utility>

namespace troupe::kernels {

Result<void> StepGraphs::run(StepPart part, std::span<const std::uint32_t> sizes,
                             const std::function<Result<void>()>& work) {
  if (std::exchange(releases_, memory_.releases()) != memory_.releases()) forget();
  Step& step = step_of(part.kind, sizes);
  step.last_use = ++uses_;
  if (part.piece >= step.pieces.size()) step.pieces.resize(part.piece + 1);
  Piece& piece = step.pieces[part.piece];
  if (!std::exchange(piece.was_used, true)) return work();
  if (memory_.failed()) return memory_.synchronize();
  if (piece.graph == nullptr) {
    TROUPE_ASSIGN_OR_RETURN(piece.graph, record(work));
  }
  memory_.gpu().replay(*piece.graph);
  return {};
}

void StepGraphs::forget() {
  for (Step& step : steps_) {
    for (Piece& piece : step.pieces) piece.graph.reset();
  }
}

StepGraphs::Step& StepGraphs::step_of(StepPart::Kind kind, std::span<const std::uint32_t> sizes) {
  const auto found = std::ranges::find_if(
      steps_, [&](const Step& step) { return step.kind == kind && std::ranges::equal(step.sizes, sizes); });
  if (found != steps_.end()) return *found;
  if (steps_.size() >= kMostSteps) steps_.erase(std::ranges::min_element(steps_, {}, &Step::last_use));
  return steps_.emplace_back(Step{kind, {sizes.begin(), sizes.end()}, {}, 0});
}

Result<std::unique_ptr<GpuGraph>> StepGraphs::record(const std::function<Result<void>()>& work) {
  TROUPE_RETURN_IF_ERROR(memory_.gpu().begin_capture());
  const Result<void> done = work();
  auto graph = memory_.gpu().end_capture();
  if (!done.ok()) return done.error();
  return graph;
}

}  // namespace troupe::kernels
