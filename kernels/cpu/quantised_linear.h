#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
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

  // out = in * weight^T + bias.
  struct Product {
    const QuantisedPanels* weight = nullptr;
    const float* bias = nullptr;  // (outs) or null
    MatrixF32 out;
  };
  static constexpr std::size_t kMostProducts = 3;

  // Products with the same inputs, at most kMostProducts. Those of one format that follow each other share the
  // quantised inputs and a round of the team.
  void run(ConstMatrixF32 in, std::span<const Product> products);

 private:
  static constexpr std::size_t kLine = 64;
  struct alignas(kLine) Line {
    std::byte bytes[kLine];
  };

  void run_alike(ConstMatrixF32 in, std::span<const Product> products);
  std::size_t pieces_a_member(const QuantisedPanels& weight, std::size_t rows) const;
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
