#include "kernels/cpu/quantised_linear.h"

#include <algorithm>
#include <cassert>
#include <numeric>

namespace troupe::kernels {
namespace {

// Rows whose quantised inputs stay in the second-level cache while panel after panel goes by.
constexpr std::size_t kRowBlockBytes = std::size_t{1} << 20;

// A piece of work: enough to outweigh handing it out (some microseconds), small enough that a slow member holds up
// nobody for long.
constexpr std::size_t kLeastPieceBytes = 32 << 10;
constexpr std::size_t kMostPieceBytes = 512 << 10;
constexpr std::size_t kLeastPieceMultiplyAdds = 1 << 20;
constexpr std::size_t kPiecesAMember = 16;

std::size_t divide_up(std::size_t value, std::size_t divisor) { return (value + divisor - 1) / divisor; }

const QuantisedPanels* panels_of(const LinearWeight& linear) {
  assert(linear.weight == nullptr || dynamic_cast<const QuantisedPanels*>(linear.weight) != nullptr);
  return static_cast<const QuantisedPanels*>(linear.weight);
}

void grow(std::vector<AlignedBlock>& memory, std::size_t blocks) {
  if (memory.size() < blocks) memory.resize(blocks);
}

}  // namespace

QuantisedLinear::QuantisedLinear(const QuantisedOps& ops, Team& team, QuantisedInputs& inputs)
    : ops_(ops), team_(team), inputs_(inputs), sums_(team.size()) {}

void QuantisedLinear::run(ConstMatrixF32 in, const LinearWeight& linear, MatrixF32 out) {
  assert(in.rows == out.rows && out.cols == linear.weight->rows());
  const ProductPart part{linear, {}};
  const Plan plan = make_plan(in, {&part, 1}, 0);
  team_.run(plan.pieces, [&](std::size_t index, std::size_t member) {
    const Piece piece = piece_of(plan, index);
    for (std::size_t row = piece.first_row; row < piece.end_row; row += plan.rows_together) {
      const std::size_t rows = std::min(plan.rows_together, piece.end_row - row);
      float* to = out.row(row) + piece.first_panel * kPanelOuts;
      multiply(plan.parts[0].first, piece, row, rows, to, out.row_stride, member);
    }
  });
}

QuantisedLinear::Plan QuantisedLinear::make_plan(ConstMatrixF32 in, std::span<const ProductPart> parts,
                                                 std::size_t group) {
  assert(parts.size() <= kMostParts);
  Plan plan;
  plan.rows = in.rows;
  plan.group = group;
  if (in.rows == 0) return plan;
  inputs_.begin(in);
  std::size_t most_cols = 1;
  for (const ProductPart& part : parts) {
    for (const LinearWeight* linear : {&part.first, &part.second}) {
      if (linear->weight != nullptr) most_cols = std::max(most_cols, panels_of(*linear)->padded_cols());
    }
  }
  const std::size_t block_rows = ops_.tile_rows * ops_.tiles_together;
  const std::size_t most_rows = std::max(block_rows, kRowBlockBytes / most_cols / block_rows * block_rows);
  plan.row_blocks = divide_up(in.rows, most_rows);
  plan.row_block = divide_up(divide_up(in.rows, plan.row_blocks), block_rows) * block_rows;
  plan.rows_together = std::min(ops_.rows_together, plan.row_block);
  scratch_blocks_ = most_cols * kPanelOuts / sizeof(AlignedBlock);
  grow(scratch_, team_.size() * scratch_blocks_);
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const PlannedPart& part = plan.parts[i] = planned(in, parts[i], group, std::min(in.rows, plan.row_block));
    plan.pieces_a_member += part.pieces_a_member;
    const std::size_t groups = divide_up(part.groups, part.pieces_a_member * team_.size());
    plan.most_outs = std::max(plan.most_outs, groups * part.together * kPanelOuts);
  }
  plan.pieces = team_.size() * plan.pieces_a_member * plan.row_blocks;
  return plan;
}

// `rows`: of a block. The pieces' bytes are within the limits, and larger where there are few rows.
QuantisedLinear::PlannedPart QuantisedLinear::planned(ConstMatrixF32 in, const ProductPart& part, std::size_t group,
                                                      std::size_t rows) {
  PlannedPart planned;
  std::size_t panel_bytes = 0, panel_work = 0;
  const auto weight_of = [&](const LinearWeight& linear) -> Weight {
    const QuantisedPanels* panels = panels_of(linear);
    if (panels == nullptr) return {};
    assert(in.cols == panels->cols());
    panel_bytes += panels->panel_bytes();
    panel_work += rows * panels->padded_cols() * kPanelOuts;
    return {panels, &inputs_.of(in, *panels), linear.bias};
  };
  planned.first = weight_of(part.first);
  planned.second = weight_of(part.second);
  panel_bytes = std::max<std::size_t>(1, panel_bytes);
  panel_work = std::max<std::size_t>(1, panel_work);

  const std::size_t panels = planned.first.panels->panels();
  const std::size_t share = panels * panel_bytes / (team_.size() * kPiecesAMember);
  const std::size_t least =
      std::min(divide_up(kLeastPieceBytes, panel_bytes), divide_up(kLeastPieceMultiplyAdds, panel_work));
  const std::size_t panels_a_piece = std::max(least, std::min(share, kMostPieceBytes) / panel_bytes);
  planned.together = std::lcm(ops_.panels_together, group == 0 ? 1 : std::lcm(group, kPanelOuts) / kPanelOuts);
  planned.groups = divide_up(panels, planned.together);
  planned.pieces_a_member = divide_up(panels, panels_a_piece * team_.size());
  return planned;
}

QuantisedLinear::Piece QuantisedLinear::piece_of(const Plan& plan, std::size_t index) const {
  Piece piece;
  const std::size_t block = index / plan.pieces_a_member % plan.row_blocks;
  piece.first_row = std::min(plan.rows, block * plan.row_block);
  piece.end_row = std::min(plan.rows, piece.first_row + plan.row_block);
  const std::size_t owner = index / plan.pieces_a_member / plan.row_blocks;
  index %= plan.pieces_a_member;
  while (index >= plan.parts[piece.part].pieces_a_member) index -= plan.parts[piece.part++].pieces_a_member;
  const PlannedPart& part = plan.parts[piece.part];
  index += owner * part.pieces_a_member;
  const std::size_t pieces = team_.size() * part.pieces_a_member;
  const std::size_t panels = part.first.panels->panels();
  piece.first_panel = std::min(panels, index * part.groups / pieces * part.together);
  piece.end_panel = std::min(panels, (index + 1) * part.groups / pieces * part.together);
  return piece;
}

void QuantisedLinear::reserve_sums(const Plan& plan) {
  const std::size_t rows = std::min(plan.rows, plan.rows_together);
  const std::size_t blocks = divide_up(2 * rows * plan.most_outs * sizeof(float), sizeof(AlignedBlock));
  for (auto& memory : sums_) grow(memory, blocks);
}

PanelSums QuantisedLinear::sums_of(const Plan& plan, const Piece& piece, std::size_t first_row, std::size_t member) {
  const PlannedPart& part = plan.parts[piece.part];
  const std::size_t first_out = piece.first_panel * kPanelOuts;
  PanelSums sums;
  sums.part = piece.part;
  sums.first_row = first_row;
  sums.rows = std::min(plan.rows_together, piece.end_row - first_row);
  sums.first_out = first_out;
  sums.outs = std::min(part.first.panels->rows(), piece.end_panel * kPanelOuts) - first_out;
  sums.group_stride = plan.group;
  sums.row_stride = plan.most_outs;
  sums.data = reinterpret_cast<float*>(sums_[member].data());
  sums.second = sums.data + sums.rows * sums.row_stride;
  multiply(part.first, piece, first_row, sums.rows, sums.data, sums.row_stride, member);
  if (part.second.panels != nullptr) {
    multiply(part.second, piece, first_row, sums.rows, sums.second, sums.row_stride, member);
  }
  return sums;
}

// `out`: of the piece's first output.
void QuantisedLinear::multiply(const Weight& weight, const Piece& piece, std::size_t first_row, std::size_t rows,
                               float* out, std::size_t out_stride, std::size_t member) {
  if (piece.panels() == 0) return;
  const QuantisedPanels& panels = *weight.panels;
  const std::size_t first_out = piece.first_panel * kPanelOuts;
  ops_.multiply({
      .in = *weight.in,
      .first_row = first_row,
      .rows = rows,
      .panels = panels.panel(piece.first_panel),
      .panel_bytes = panels.panel_bytes(),
      .out_scales = panels.scales() != nullptr ? panels.scales() + first_out : nullptr,
      .bias = weight.bias != nullptr ? weight.bias + first_out : nullptr,
      .out = out,
      .out_stride = out_stride,
      .outs = std::min(panels.rows(), piece.end_panel * kPanelOuts) - first_out,
      .scratch = scratch_[member * scratch_blocks_].bytes,
  });
}

}  // namespace troupe::kernels
