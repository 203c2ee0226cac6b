#pragma once

#include "kernels/cpu/routing.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

// What every implementation on the CPU shares: its memory, the lists of the step, and operations that only move rows or
// weigh them.
class CpuKernels : public Kernels {
 public:
  DeviceMemory& memory() override { return host_memory(); }

  Result<std::unique_ptr<Mixture>> make_mixture(std::span<const ExpertWeights> experts,
                                                const MixtureShape& shape) override;
  StepRows begin_step(const StepLists& lists) override;
  void gather_logits_rows(ConstMatrixF32 in, std::size_t first, MatrixF32 out) override;
  void mix(ConstMatrixF32 in, ConstMatrixF32 router_logits, const Mixture& mixture, const MixtureScratch& scratch,
           MatrixF32 sum) override;
  void scale_by_sigmoid(ConstMatrixF32 in, std::span<const float> weight, MatrixF32 out) override;

 protected:
  const StepLists& step() const { return step_; }

 private:
  StepLists step_;
  Routing routing_;  // of the latest mix()
};

}  // namespace troupe::kernels
