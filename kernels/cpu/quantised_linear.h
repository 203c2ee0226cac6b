#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <vector>

#include "kernels/cpu/panel_product.h"
#include "kernels/cpu/quantised_inputs.h"
#include "kernels/cpu/quantised_ops.h"
#include "kernels/cpu/quantised_panels.h"
#include "kernels/cpu/team.h"

namespace troupe::kernels {

// Products with quantised weights, as PanelProduct makes them of others: the panels are shared out among a team.
//
// Thread-safety: as Kernels.
class QuantisedLinear {
 public:
  static constexpr std::size_t kMostParts = 3;

  // All outlive this object.
  QuantisedLinear(const QuantisedOps& ops, Team& team, QuantisedInputs& inputs);

  // out = in * weight^T + bias.
  void run(ConstMatrixF32 in, const LinearWeight& linear, MatrixF32 out);

  // As PanelProduct::run; weights may differ in format. `group`: outputs that must not be separated.
  template <class Finish>
  void run(ConstMatrixF32 in, std::span<const ProductPart> parts, std::size_t group, const Finish& finish) {
    const Plan plan = make_plan(in, parts, group);
    reserve_sums(plan);
    team_.run(plan.pieces, [&](std::size_t index, std::size_t member) {
      const Piece piece = piece_of(plan, index);
      if (piece.panels() == 0) return;
      for (std::size_t row = piece.first_row; row < piece.end_row; row += plan.rows_together) {
        finish(sums_of(plan, piece, row, member));
      }
    });
  }

 private:
  struct Weight {
    const QuantisedPanels* panels = nullptr;
    const QuantisedRows* in = nullptr;
    const float* bias = nullptr;
  };
  struct PlannedPart {
    Weight first;
    Weight second;             // or none
    std::size_t groups = 0;    // of panels that stay together
    std::size_t together = 0;  // panels of a group
    std::size_t pieces_a_member = 0;
  };
  // How the work is cut: piece = (a block of rows, some groups of panels of a part). Each member begins with its pieces
  // of every part, one after the other: the parts of the weights that it packed; and it does with a block of rows,
  // which its second-level cache holds, all that it has to before it goes on to the next.
  struct Plan {
    std::array<PlannedPart, kMostParts> parts;
    std::size_t rows = 0;
    std::size_t group = 0;
    std::size_t row_block = 0;
    std::size_t row_blocks = 0;
    std::size_t rows_together = 0;
    std::size_t pieces_a_member = 0;  // of one block of rows
    std::size_t pieces = 0;
    std::size_t most_outs = 0;  // of a piece
  };
  struct Piece {
    std::size_t part = 0;
    std::size_t first_panel = 0;
    std::size_t end_panel = 0;
    std::size_t first_row = 0;
    std::size_t end_row = 0;

    std::size_t panels() const { return end_panel - first_panel; }
  };

  Plan make_plan(ConstMatrixF32 in, std::span<const ProductPart> parts, std::size_t group);
  PlannedPart planned(ConstMatrixF32 in, const ProductPart& part, std::size_t group, std::size_t rows);
  Piece piece_of(const Plan& plan, std::size_t index) const;
  void reserve_sums(const Plan& plan);
  void multiply(const Weight& weight, const Piece& piece, std::size_t first_row, std::size_t rows, float* out,
                std::size_t out_stride, std::size_t member);
  PanelSums sums_of(const Plan& plan, const Piece& piece, std::size_t first_row, std::size_t member);

  const QuantisedOps& ops_;
  Team& team_;
  QuantisedInputs& inputs_;
  std::size_t scratch_blocks_ = 0;               // of a member
  std::vector<AlignedBlock> scratch_;            // (team, padded cols, kPanelOuts) bytes
  std::vector<std::vector<AlignedBlock>> sums_;  // (members)
};

}  // namespace troupe::kernels
