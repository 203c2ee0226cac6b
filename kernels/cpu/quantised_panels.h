#pragma once

#include <cstddef>
#include <memory>

#include "kernels/cpu/team.h"
#include "kernels/kernels.h"
#include "kernels/quant.h"

namespace troupe::kernels {

// A quantised weight as QuantisedOps reads it, the same for every instruction set: panels of 16 outputs, each a
// sequence of chunks of 64 inputs (256 in the K formats), read from the first byte to the last. A chunk holds its
// quants in vectors of 16 outputs times 4 inputs, a byte each, and its scales (and mins) for 16 outputs side by side;
// chunks are multiples of 64 bytes. What lies where in a chunk: quantised_formats.h; kInt8 and kInt4: quant.h.
//
// GGUF's formats are repacked by the team, at no more than 3 % above their size, each part by the member that begins
// with it in a product; inputs that a last chunk lacks have scale zero.
// Our own formats are copied as they are; of kInt8 the scales are referred to: the caller keeps them mapped.
class QuantisedPanels : public PackedWeight {
 public:
  QuantisedPanels(const WeightView& weight, Team& team, std::span<const std::byte> image = {});

  std::size_t rows() const override { return rows_; }
  std::size_t cols() const override { return cols_; }
  std::size_t bytes() const override;
  std::span<const std::byte> image() const override {
    return {memory_.get(), is_panel_format(dtype_) ? 0 : panels() * panel_bytes()};  // copying is as quick
  }

  DType dtype() const { return dtype_; }
  std::size_t padded_cols() const { return padded_cols_; }  // to whole chunks
  std::size_t panels() const { return (rows_ + kPanelOuts - 1) / kPanelOuts; }
  std::size_t panel_bytes() const { return padded_cols_ / chunk_inputs_ * chunk_bytes_; }
  const std::byte* panel(std::size_t index) const { return memory_.get() + index * panel_bytes(); }
  const float* scales() const { return scales_; }  // kInt8: (rows), else null

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };

  void allocate();
  void copy(const WeightView& weight, Team& team);
  void repack(const WeightView& weight, Team& team, std::span<const std::byte> image);

  DType dtype_;
  std::size_t rows_;
  std::size_t cols_;
  std::size_t chunk_inputs_;
  std::size_t chunk_bytes_;
  std::size_t padded_cols_;
  const float* scales_;
  std::unique_ptr<std::byte[], Free> memory_;  // (panels, panel_bytes)
};

}  // namespace troupe::kernels
