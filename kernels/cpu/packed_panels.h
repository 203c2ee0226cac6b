#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/cpu/vector_ops.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

// A weight cut into panels of panel_vectors * width outputs. Within a panel the outputs of one input feature lie side
// by side, so that a vector of sums takes one input at a time and none is ever added across lanes. The last panel has
// as many vectors as it needs, zeros filling the last. Elements stay in their storage type.
class PackedPanels : public PackedWeight {
 public:
  PackedPanels(const WeightView& weight, const VectorOps& ops);

  std::size_t rows() const override { return rows_; }
  std::size_t cols() const override { return cols_; }
  std::size_t bytes() const override { return bytes_; }

  DType dtype() const { return dtype_; }
  std::size_t panels() const { return (rows_ + panel_outs_ - 1) / panel_outs_; }
  std::size_t panel_outs() const { return panel_outs_; }

  // Fills in what a tile needs to know of this panel, from input feature `first` on.
  void describe(std::size_t panel, std::size_t first, LinearTile& tile) const;

 private:
  struct Free {
    void operator()(std::byte* memory) const;
  };

  std::size_t vectors_of(std::size_t panel) const;

  DType dtype_;
  std::size_t rows_;
  std::size_t cols_;
  std::size_t width_;
  std::size_t panel_outs_;
  std::size_t bytes_;
  std::unique_ptr<std::byte[], Free> data_;  // panels() times (cols, vectors * width) of dtype_
};

}  // namespace troupe::kernels
