#pragma once

#include "kernels/kernels.h"

namespace troupe::kernels {

// What every implementation on the CPU shares: its memory, and operations that only move rows or weigh them.
class CpuKernels : public Kernels {
 public:
  DeviceMemory& memory() override { return host_memory(); }

  void gather_rows(ConstMatrixF32 in, std::span<const std::uint32_t> rows, MatrixF32 out) override;
  void add_weighted_rows(ConstMatrixF32 in, std::span<const std::uint32_t> rows, std::span<const float> weights,
                         MatrixF32 sum) override;
  void scale_by_sigmoid(ConstMatrixF32 in, std::span<const float> weight, MatrixF32 out) override;
};

}  // namespace troupe::kernels
