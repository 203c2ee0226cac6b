#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "kernels/cpu/panel_weight.h"
#include "kernels/cpu/team.h"

namespace troupe::kernels {

// The product of some rows with some outputs of a weight, biases included, in the memory of the member that made it.
struct PanelSums {
  std::size_t part = 0;  // of the weights
  std::size_t first_row = 0;
  std::size_t rows = 0;
  std::size_t first_out = 0;
  std::size_t outs = 0;
  std::size_t group_stride = 0;  // from one group of outputs to the next, where there are groups
  float* data = nullptr;         // (rows, outs), row_stride apart; each group on its own
  float* second = nullptr;       // the same with the part's second weight
  std::size_t row_stride = 0;

  float* row(std::size_t index) const { return data + index * row_stride; }
  float* second_row(std::size_t index) const { return second + index * row_stride; }
};

// A weight whose outputs follow those of the part before; or two of one shape, multiplied side by side.
struct ProductPart {
  LinearWeight first;
  LinearWeight second;  // or none
};

// Multiplies rows with weights in pieces that a team shares, and hands each piece, while it is in the cache, to whoever
// knows what becomes of it.
class PanelProduct {
 public:
  explicit PanelProduct(Team& team) : team_(team), sums_(team.size()) {}

  // Calls finish(const PanelSums&) for pieces that cover every row and output of every part once, from several threads.
  // `group`: outputs that must not be separated, as the weights were packed with (0: none, whatever they were).
  template <class Finish>
  void run(ConstMatrixF32 in, std::span<const ProductPart> parts, std::size_t group, const Finish& finish) {
    const Plan plan = make_plan(in, parts, group);
    team_.run(plan.pieces,
              [&](std::size_t piece, std::size_t member) { finish(multiply(in, parts, plan, piece, member)); });
  }

 private:
  // How the work is cut: piece = (a few panels of a part, a block of rows), the rows of the same panels one after the
  // other, so that these are read from memory once.
  struct Plan {
    std::size_t panels = 0;  // of a piece, in whole groups
    bool has_groups = false;
    std::size_t row_blocks = 0;
    std::size_t pieces = 0;
  };

  Plan make_plan(ConstMatrixF32 in, std::span<const ProductPart> parts, std::size_t group);
  void prepare(ConstMatrixF32 in, const PanelWeight& weight);
  PanelSums multiply(ConstMatrixF32 in, std::span<const ProductPart> parts, const Plan& plan, std::size_t piece,
                     std::size_t member);

  Team& team_;
  std::array<std::vector<AlignedBlock>, kInputFormats> prepared_;  // of the rows at hand
  std::vector<std::vector<AlignedBlock>> sums_;                    // (members)
};

}  // namespace troupe::kernels
