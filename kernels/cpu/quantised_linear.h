#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/cpu/quantised_ops.h"
#include "kernels/cpu/quantised_panels.h"
#include "kernels/cpu/team.h"

namespace troupe::kernels {

// Products with quantised weights: quantises the inputs, and shares the panels out among a team. Owns the memory for
// quantised inputs, which grows to the largest call and is then reused.
//
// Thread-safety: as Kernels.
class QuantisedLinear {
 public:
  // Both outlive this object.
  QuantisedLinear(const QuantisedOps& ops, Team& team);

  // As Kernels::linear.
  void run(ConstMatrixF32 in, const QuantisedPanels& weight, const float* bias, MatrixF32 out);

 private:
  static constexpr std::size_t kLine = 64;
  struct alignas(kLine) Line {
    std::byte bytes[kLine];
  };

  QuantisedRows quantise(ConstMatrixF32 in, const QuantisedPanels& weight);
  InputTile tile_of(std::size_t row, std::size_t rows) const;

  const QuantisedOps& ops_;
  Team& team_;
  std::vector<Line> quants_;
  std::vector<float> scales_;
  std::vector<std::int32_t> starts_;
  std::vector<float> min_sums_;
  std::vector<Line> scratch_;  // (team, padded cols, kPanelOuts) bytes
};

}  // namespace troupe::kernels
