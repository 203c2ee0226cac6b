#include "kernels/cpu/packed_panels.h"

#include <algorithm>
#include <cassert>
#include <cstring>

#include "kernels/cpu/half.h"

namespace troupe::kernels {
namespace {

// Input features that one pass of tiles takes: a panel's stretch of them stays in the second-level cache while the
// rows go by.
constexpr std::size_t kDepthBlock = 256;

// Turns `count` rows of `cols` elements into columns: to[col * lanes + row] = from[row * stride + col].
template <class T>
void transpose(const T* from, std::size_t count, std::size_t cols, std::size_t stride, T* to, std::size_t lanes) {
  constexpr std::size_t kStretch = 32;  // of each row in turn: what is written meanwhile stays in the cache
  for (std::size_t first = 0; first < cols; first += kStretch) {
    const std::size_t end = std::min(cols, first + kStretch);
    for (std::size_t row = 0; row < count; ++row) {
      for (std::size_t col = first; col < end; ++col) to[col * lanes + row] = from[row * stride + col];
    }
  }
}

}  // namespace

PackedPanels::PackedPanels(const WeightView& weight, std::size_t group, const VectorOps& ops, Team& team,
                           std::span<const std::byte> image)
    : PanelWeight(PanelLayout(weight.rows, group, ops.width, ops.panel_vectors), weight.cols),
      ops_(ops),
      dtype_(weight.dtype),
      memory_(layout().vectors() * ops.width * weight.cols * size_of(weight.dtype)) {
  assert(is_float_storage(dtype_));
  const bool use_image = !image.empty() && image.size() == memory_.bytes();
  team.run(layout().panels(), [&](std::size_t panel, std::size_t) {
    const std::size_t first = layout().first_out(panel);
    const std::size_t count = layout().outs(panel);
    const std::size_t lanes = layout().vectors(panel) * ops.width;
    if (use_image) return memory_.copy(image, panel_data(panel), lanes * cols() * size_of(dtype_));
    // Fresh memory is zero, as lanes beyond the outputs must be.
    if (dtype_ == DType::kF32) {
      transpose(static_cast<const std::uint32_t*>(weight.data) + first * weight.row_stride, count, cols(),
                weight.row_stride, reinterpret_cast<std::uint32_t*>(panel_data(panel)), lanes);
    } else {
      transpose(static_cast<const std::uint16_t*>(weight.data) + first * weight.row_stride, count, cols(),
                weight.row_stride, reinterpret_cast<std::uint16_t*>(panel_data(panel)), lanes);
    }
  });
}

std::byte* PackedPanels::panel_data(std::size_t panel) const {
  return memory_.data() + layout().first_vector(panel) * ops_.width * cols() * size_of(dtype_);
}

void PackedPanels::multiply(const PanelInput& in, std::size_t first_row, std::size_t rows, std::size_t first_panel,
                            std::size_t panels, float* sums, std::size_t row_stride) const {
  LinearTile tile;
  tile.in_stride = in.rows.row_stride;
  tile.out_stride = row_stride;
  // With one tile of rows nothing is read twice, and the panel goes by in one piece.
  const std::size_t depth_block = rows <= ops_.tile_rows ? std::max<std::size_t>(1, cols()) : kDepthBlock;
  // An input of no features still has zeros to give, hence at least one pass.
  for (std::size_t depth = 0; depth == 0 || depth < cols(); depth += depth_block) {
    tile.depth = std::min(depth_block, cols() - depth);
    tile.continues = depth != 0;
    for (std::size_t panel = 0; panel < panels; ++panel) {
      tile.vectors = layout().vectors(first_panel + panel);
      tile.panel = panel_data(first_panel + panel) + depth * tile.vectors * ops_.width * size_of(dtype_);
      for (std::size_t row = 0; row < rows; row += tile.rows) {
        tile.rows = std::min(ops_.tile_rows, rows - row);
        tile.in = in.rows.row(first_row + row) + depth;
        tile.out = sums + row * row_stride + panel * layout().panel_outs();
        ops_.linear_tile(dtype_, tile);
      }
    }
  }
}

}  // namespace troupe::kernels
