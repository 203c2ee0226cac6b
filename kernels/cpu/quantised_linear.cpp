#include "kernels/cpu/quantised_linear.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>

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

// Numbers to quantise that are worth a round of the team.
constexpr std::size_t kQuantiseAlone = 16 << 10;

std::size_t divide_up(std::size_t value, std::size_t divisor) { return (value + divisor - 1) / divisor; }

template <class T>
T* room(std::vector<T>& memory, std::size_t count) {
  if (memory.size() < count) memory.resize(count);
  return memory.data();
}

}  // namespace

QuantisedLinear::QuantisedLinear(const QuantisedOps& ops, Team& team) : ops_(ops), team_(team) {}

void QuantisedLinear::run(ConstMatrixF32 in, std::span<const Product> products) {
  if (in.rows == 0) return;
  while (!products.empty()) {
    const DType dtype = products.front().weight->dtype();
    std::size_t alike = 1;
    while (alike < products.size() && products[alike].weight->dtype() == dtype) ++alike;
    run_alike(in, products.first(alike));
    products = products.subspan(alike);
  }
}

// Pieces of a product that each member begins with: their bytes within the limits, and larger where there are few rows.
std::size_t QuantisedLinear::pieces_a_member(const QuantisedPanels& weight, std::size_t rows) const {
  const std::size_t panel_bytes = std::max<std::size_t>(1, weight.panel_bytes());
  const std::size_t share = weight.panels() * weight.panel_bytes() / (team_.size() * kPiecesAMember);
  const std::size_t panel_work = std::max<std::size_t>(1, rows * weight.padded_cols() * kPanelOuts);
  const std::size_t least =
      std::min(divide_up(kLeastPieceBytes, panel_bytes), divide_up(kLeastPieceMultiplyAdds, panel_work));
  const std::size_t panels_a_piece = std::max(least, std::min(share, kMostPieceBytes) / panel_bytes);
  return divide_up(weight.panels(), panels_a_piece * team_.size());
}

// Each member begins with its part of every product, one after the other: the parts of the weights that it packed.
void QuantisedLinear::run_alike(ConstMatrixF32 in, std::span<const Product> products) {
  assert(products.size() <= kMostProducts);
  const std::size_t padded_cols = products.front().weight->padded_cols();
  const QuantisedRows quantised = quantise(in, *products.front().weight);
  const std::size_t scratch_lines = padded_cols * kPanelOuts / kLine;
  Line* scratch = room(scratch_, team_.size() * scratch_lines);

  const std::size_t fitting = kRowBlockBytes / std::max<std::size_t>(1, padded_cols);
  const std::size_t row_block = std::max(ops_.tile_rows, fitting / ops_.tile_rows * ops_.tile_rows);
  const std::size_t row_blocks = divide_up(in.rows, row_block);

  std::array<std::size_t, kMostProducts> of_a_member;
  std::size_t all_of_a_member = 0;
  for (std::size_t i = 0; i < products.size(); ++i) {
    assert(in.cols == products[i].weight->cols() && products[i].out.rows == in.rows &&
           products[i].out.cols == products[i].weight->rows());
    of_a_member[i] = pieces_a_member(*products[i].weight, std::min(in.rows, row_block));
    all_of_a_member += of_a_member[i];
  }

  team_.run(team_.size() * all_of_a_member * row_blocks, [&](std::size_t index, std::size_t member) {
    const std::size_t first = index % row_blocks * row_block;
    const std::size_t owner = index / row_blocks / all_of_a_member;
    std::size_t piece = index / row_blocks % all_of_a_member;
    std::size_t which = 0;
    while (piece >= of_a_member[which]) piece -= of_a_member[which++];
    piece += owner * of_a_member[which];
    const std::size_t pieces = team_.size() * of_a_member[which];
    const auto& [weight, bias, out] = products[which];
    QuantisedCall call{
        .in = quantised,
        .out_stride = out.row_stride,
        .scratch = scratch[member * scratch_lines].bytes,
    };
    const std::size_t begin_panel = piece * weight->panels() / pieces;
    const std::size_t end_panel = (piece + 1) * weight->panels() / pieces;
    const std::size_t end_row = first + std::min(row_block, in.rows - first);
    for (std::size_t row = first; row < end_row; row += call.rows) {
      call.first_row = row;
      call.rows = std::min(ops_.rows_together, end_row - row);
      for (std::size_t panel = begin_panel; panel < end_panel; ++panel) {
        const std::size_t first_out = panel * kPanelOuts;
        call.panel = weight->panel(panel);
        call.outs = std::min(kPanelOuts, weight->rows() - first_out);
        call.out_scales = weight->scales() != nullptr ? weight->scales() + first_out : nullptr;
        call.bias = bias != nullptr ? bias + first_out : nullptr;
        call.out = out.row(row) + first_out;
        ops_.multiply(call);
      }
    }
  });
}

// The tile that `row` of a batch of `rows` belongs to: full ones, then the powers of two that make up the rest.
InputTile QuantisedLinear::tile_of(std::size_t row, std::size_t rows) const {
  const std::size_t full = rows / ops_.tile_rows * ops_.tile_rows;
  if (row < full) return {row / ops_.tile_rows * ops_.tile_rows, ops_.tile_rows};
  for (InputTile tile{full, 0};; tile.first += tile.count) {
    tile.count = std::bit_floor(rows - tile.first);
    if (row < tile.first + tile.count) return tile;
  }
}

QuantisedRows QuantisedLinear::quantise(ConstMatrixF32 in, const QuantisedPanels& weight) {
  const DType dtype = weight.dtype();
  const std::size_t cols = weight.padded_cols();
  const std::size_t starts = in.rows * starts_of(dtype, cols);
  const QuantisedRows to{
      .dtype = dtype,
      .quants = reinterpret_cast<std::int8_t*>(room(quants_, divide_up(in.rows * cols, kLine))),
      .scales = room(scales_, in.rows * scales_of(dtype, cols)),
      .starts = room(starts_, starts),
      .min_sums = room(min_sums_, starts),
      .cols = cols,
  };
  const std::size_t rows_a_piece = std::max<std::size_t>(1, kQuantiseAlone / std::max<std::size_t>(1, cols));
  team_.run(divide_up(in.rows, rows_a_piece), [&](std::size_t piece, std::size_t) {
    const std::size_t end = std::min(in.rows, (piece + 1) * rows_a_piece);
    for (std::size_t row = piece * rows_a_piece; row < end; ++row) {
      const InputTile tile = tile_of(row, in.rows);
      ops_.quantise_row(in.row(row), in.cols, to, tile, row - tile.first);
    }
  });
  return to;
}

}  // namespace troupe::kernels
