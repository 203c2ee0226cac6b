#include "kernels/cuda/step_graphs.h"

#include <algorithm>
#include <utility>

namespace troupe::kernels {

Result<void> StepGraphs::run(StepPart part, std::span<const std::uint32_t> sizes,
                             const std::function<Result<void>()>& work) {
  ++uses_;
  if (std::exchange(releases_, memory_.releases()) != memory_.releases()) forget();
  Entry* const entry = find(part, sizes);
  if (entry == nullptr) {
    remember(part, sizes);
    return work();
  }
  entry->last_use = uses_;
  if (memory_.failed()) return memory_.synchronize();
  if (entry->graph == nullptr) {
    TROUPE_ASSIGN_OR_RETURN(entry->graph, record(work));
  }
  memory_.gpu().replay(*entry->graph);
  return {};
}

void StepGraphs::forget() {
  for (Entry& entry : entries_) entry.graph.reset();
}

StepGraphs::Entry* StepGraphs::find(StepPart part, std::span<const std::uint32_t> sizes) {
  const auto found = std::ranges::find_if(
      entries_, [&](const Entry& entry) { return entry.part == part && std::ranges::equal(entry.sizes, sizes); });
  return found == entries_.end() ? nullptr : &*found;
}

void StepGraphs::remember(StepPart part, std::span<const std::uint32_t> sizes) {
  if (entries_.size() >= kMostGraphs) entries_.erase(std::ranges::min_element(entries_, {}, &Entry::last_use));
  entries_.push_back({part, {sizes.begin(), sizes.end()}, nullptr, uses_});
}

Result<std::unique_ptr<GpuGraph>> StepGraphs::record(const std::function<Result<void>()>& work) {
  TROUPE_RETURN_IF_ERROR(memory_.gpu().begin_capture());
  const Result<void> done = work();
  auto graph = memory_.gpu().end_capture();
  if (!done.ok()) return done.error();
  return graph;
}

}  // namespace troupe::kernels
