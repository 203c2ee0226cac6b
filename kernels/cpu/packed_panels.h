#pragma once

#include <cstddef>

#include "kernels/cpu/panel_weight.h"
#include "kernels/cpu/team.h"
#include "kernels/cpu/vector_ops.h"

namespace troupe::kernels {

// A float weight for fused multiply-adds. Within a panel the outputs of one input feature lie side by side, so that a
// vector of sums takes one input at a time and none is ever added across lanes. Elements stay in their storage type.
class PackedPanels final : public PanelWeight {
 public:
  PackedPanels(const WeightView& weight, std::size_t group, const VectorOps& ops, Team& team,
               std::span<const std::byte> image = {});

  std::size_t bytes() const override { return memory_.bytes(); }
  std::span<const std::byte> image() const override { return memory_.span(); }
  InputFormat input_format() const override { return InputFormat::kFloats; }
  std::size_t prepared_bytes(std::size_t) const override { return 0; }
  void prepare(ConstMatrixF32, std::size_t, std::byte*) const override {}
  void multiply(const PanelInput& in, std::size_t first_row, std::size_t rows, std::size_t first_panel,
                std::size_t panels, float* sums, std::size_t row_stride) const override;

 private:
  std::byte* panel_data(std::size_t panel) const;

  const VectorOps& ops_;
  DType dtype_;
  WeightMemory memory_;  // by panel: (cols, vectors * width) of dtype_
};

}  // namespace troupe::kernels
