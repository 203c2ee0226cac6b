#pragma once

#include <cstddef>

#include "kernels/cpu/panel_weight.h"
#include "kernels/cpu/team.h"
#include "kernels/cpu/vector_ops.h"

namespace troupe::kernels {

// A BF16 weight for products of BF16: within a panel, for each 32 input features, one tile of 1 KiB for every 16
// outputs. A tile holds 16 rows of 16 outputs by 2 features, as tdpbf16ps and vdpbf16ps want them. The tiles of the
// same features lie apart (TileOps::tiles_apart), or row by row side by side, so that who reads all of them reads
// memory in order.
class PackedTiles final : public PanelWeight {
 public:
  // REQUIRES: weight.dtype == kBF16
  PackedTiles(const WeightView& weight, std::size_t group, const TileOps& ops, Team& team,
              std::span<const std::byte> image = {});

  std::size_t bytes() const override { return memory_.bytes(); }
  std::span<const std::byte> image() const override { return memory_.span(); }
  InputFormat input_format() const override { return InputFormat::kBf16Parts; }
  std::size_t prepared_bytes(std::size_t rows) const override;
  void prepare(ConstMatrixF32 in, std::size_t first, std::byte* prepared) const override;
  void multiply(const PanelInput& in, std::size_t first_row, std::size_t rows, std::size_t first_panel,
                std::size_t panels, float* sums, std::size_t row_stride) const override;

 private:
  std::byte* panel_data(std::size_t panel) const;

  const TileOps& ops_;
  std::size_t depth_;    // tiles along the input features
  WeightMemory memory_;  // by panel: (depth, vectors) tiles
};

}  // namespace troupe::kernels
