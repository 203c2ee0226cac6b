#include "kernels/cpu/packed_tiles.h"

#include <algorithm>
#include <cassert>
#include <cstring>

namespace troupe::kernels {
namespace {

constexpr std::size_t kTileFeatures = 32;
constexpr std::size_t kTilePairs = 16;
constexpr std::size_t kTileOuts = 16;
constexpr std::size_t kTileBytes = 1024;
constexpr std::size_t kPanelTiles = 4;  // side by side, as many as there are registers for their sums

// Tiles along the depth that one pass takes when there are more rows than one block: those of a panel (32 KiB) stay in
// the first-level cache while the blocks of rows go by.
constexpr std::size_t kDepthBlock = 8;

// tile[pair * pair_stride][out] = features (2 * pair, 2 * pair + 1) of row `out`; zeros beyond the rows and features
// there are.
void fill_tile(const std::uint16_t* rows, std::size_t outs, std::size_t features, std::size_t stride,
               std::uint16_t* tile, std::size_t pair_stride) {
  for (std::size_t out = 0; out < outs; ++out) {
    for (std::size_t feature = 0; feature < features; ++feature) {
      tile[feature / 2 * pair_stride + 2 * out + feature % 2] = rows[out * stride + feature];
    }
  }
}

}  // namespace

PackedTiles::PackedTiles(const WeightView& weight, std::size_t group, const TileOps& ops, Team& team,
                         std::span<const std::byte> image)
    : PanelWeight(PanelLayout(weight.rows, group, kTileOuts, kPanelTiles), weight.cols),
      ops_(ops),
      depth_((weight.cols + kTileFeatures - 1) / kTileFeatures),
      memory_(layout().vectors() * depth_ * kTileBytes) {
  assert(weight.dtype == DType::kBF16);
  const bool use_image = !image.empty() && image.size() == memory_.bytes();
  const auto* elements = static_cast<const std::uint16_t*>(weight.data);
  team.run(layout().panels(), [&](std::size_t panel, std::size_t) {
    const std::size_t first = layout().first_out(panel);
    const std::size_t outs = layout().outs(panel);
    std::byte* tiles = panel_data(panel);
    if (use_image) return memory_.copy(image, tiles, layout().vectors(panel) * depth_ * kTileBytes);
    const std::size_t vectors = layout().vectors(panel);
    const std::size_t tile_stride = ops_.tiles_apart ? kTileBytes : kTileBytes / kTilePairs;
    const std::size_t pair_stride = 2 * kTileOuts * (ops_.tiles_apart ? 1 : vectors);
    for (std::size_t depth = 0; depth < depth_; ++depth) {
      const std::size_t feature = depth * kTileFeatures;
      for (std::size_t vector = 0; vector < vectors; ++vector) {
        const std::size_t out = vector * kTileOuts;
        // Fresh memory is zero, as tiles must be beyond what there is.
        fill_tile(elements + (first + out) * weight.row_stride + feature, std::min(kTileOuts, outs - out),
                  std::min(kTileFeatures, weight.cols - feature), weight.row_stride,
                  reinterpret_cast<std::uint16_t*>(tiles + depth * vectors * kTileBytes + vector * tile_stride),
                  pair_stride);
      }
    }
  });
}

std::byte* PackedTiles::panel_data(std::size_t panel) const {
  return memory_.data() + layout().first_vector(panel) * depth_ * kTileBytes;
}

std::size_t PackedTiles::prepared_bytes(std::size_t rows) const {
  return rows * depth_ * kTileFeatures * ops_.parts * sizeof(std::uint16_t);
}

void PackedTiles::prepare(ConstMatrixF32 in, std::size_t first, std::byte* prepared) const {
  const std::size_t rows = std::min(kPreparedRows, in.rows - first);
  ops_.split(in.row(first), in.row_stride, rows, in.cols, prepared + prepared_bytes(first));
}

void PackedTiles::multiply(const PanelInput& in, std::size_t first_row, std::size_t rows, std::size_t first_panel,
                           std::size_t panels, float* sums, std::size_t row_stride) const {
  assert(first_row % kPreparedRows == 0);
  const std::size_t depth_block = rows <= kPreparedRows ? std::max<std::size_t>(1, depth_) : kDepthBlock;
  // Of a panel's tiles, those that one pass takes from `depth` on.
  const auto tiles_at = [&](std::size_t panel, std::size_t depth) -> std::span<const std::byte> {
    const std::size_t bytes = layout().vectors(panel) * kTileBytes;  // along one tile of the depth
    return {panel_data(panel) + depth * bytes, std::min(depth_block, depth_ - depth) * bytes};
  };
  for (std::size_t depth = 0; depth == 0 || depth < depth_; depth += depth_block) {
    for (std::size_t panel = first_panel; panel < first_panel + panels; ++panel) {
      std::span<const std::byte> next;
      if (panel + 1 < first_panel + panels) {
        next = tiles_at(panel + 1, depth);
      } else if (depth + depth_block < depth_) {
        next = tiles_at(first_panel, depth + depth_block);
      } else if (panel + 1 < layout().panels()) {
        next = tiles_at(panel + 1, 0);
      }
      ops_.multiply({.in = in.prepared + prepared_bytes(first_row),
                     .rows = rows,
                     .in_depth = depth_,
                     .panel = tiles_at(panel, depth).data(),
                     .vectors = layout().vectors(panel),
                     .first = depth,
                     .depth = std::min(depth_block, depth_ - depth),
                     .out = sums + (panel - first_panel) * layout().panel_outs(),
                     .out_stride = row_stride,
                     .next = next.data(),
                     .next_bytes = next.size()});
    }
  }
}

}  // namespace troupe::kernels
