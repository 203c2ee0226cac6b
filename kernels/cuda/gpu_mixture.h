#pragma once

#include <memory>
#include <span>

#include "kernels/cuda/packed_weight.h"
#include "kernels/cuda/workspace.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

// The experts of a layer: which images they have, as the device reads it.
class GpuMixture final : public Mixture {
 public:
  struct Expert {
    GpuWeight gate;  // (intermediate, in_features)
    GpuWeight up;    // the same
    GpuWeight down;  // (in_features, intermediate)
  };

  // Errors: of memory.allocate; kUnsupported where experts differ in type, or where a row takes more of them than the
  // kernels sort.
  static Result<std::unique_ptr<GpuMixture>> make(GpuMemory& memory, std::span<const Expert> experts,
                                                  const MixtureShape& shape);
  ~GpuMixture() override;

  // Kernels::mix, for rows of any number. Asynchronous; nothing waits. live_rows: as in RouteCall
  // (kernels/cuda/experts.h), or null; only with rows that fit in one grid. inputs: for what products turn their inputs
  // into; choices: for which rows go where; both are free again for what comes next on the stream.
  void mix(ConstMatrixF32 in, ConstMatrixF32 router_logits, const MixtureScratch& scratch,
           const std::uint32_t* live_rows, Workspace& inputs, Workspace& choices, MatrixF32 sum) const;

 private:
  void mix_rows(ConstMatrixF32 in, ConstMatrixF32 router_logits, const MixtureScratch& scratch,
                const std::uint32_t* live_rows, Workspace& inputs, Workspace& choices, MatrixF32 sum) const;

  GpuMixture(GpuMemory& memory, std::span<const Expert> experts, const MixtureShape& shape, const std::byte** images)
      : memory_(memory), first_(experts.front()), num_experts_(experts.size()), shape_(shape), images_(images) {}

  GpuMemory& memory_;
  const Expert first_;  // of whose types and sizes all are
  const std::size_t num_experts_;
  const MixtureShape shape_;
  const std::byte** const images_;  // (3, num_experts), on the device: of gate, up and down
};

}  // namespace troupe::kernels
