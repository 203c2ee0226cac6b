#include "kernels/cpu/packed_panels.h"

#include <algorithm>
#include <cassert>
#include <cstring>
#include <new>

#include "kernels/cpu/half.h"

namespace troupe::kernels {
namespace {

constexpr std::align_val_t kAlignment{64};

std::size_t round_up(std::size_t value, std::size_t step) { return (value + step - 1) / step * step; }

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

void PackedPanels::Free::operator()(std::byte* memory) const { ::operator delete[](memory, kAlignment); }

PackedPanels::PackedPanels(const WeightView& weight, const VectorOps& ops)
    : dtype_(weight.dtype),
      rows_(weight.rows),
      cols_(weight.cols),
      width_(ops.width),
      panel_outs_(ops.panel_vectors * ops.width),
      bytes_(round_up(rows_, width_) * cols_ * size_of(dtype_)),
      data_(static_cast<std::byte*>(::operator new[](bytes_, kAlignment))) {
  assert(is_float_storage(dtype_));
  for (std::size_t panel = 0; panel < panels(); ++panel) {
    const std::size_t first = panel * panel_outs_;
    const std::size_t count = std::min(panel_outs_, rows_ - first);
    const std::size_t lanes = vectors_of(panel) * width_;
    std::byte* to = data_.get() + first * cols_ * size_of(dtype_);
    if (lanes != count) std::memset(to, 0, cols_ * lanes * size_of(dtype_));
    if (dtype_ == DType::kF32) {
      transpose(static_cast<const std::uint32_t*>(weight.data) + first * weight.row_stride, count, cols_,
                weight.row_stride, reinterpret_cast<std::uint32_t*>(to), lanes);
    } else {
      transpose(static_cast<const std::uint16_t*>(weight.data) + first * weight.row_stride, count, cols_,
                weight.row_stride, reinterpret_cast<std::uint16_t*>(to), lanes);
    }
  }
}

std::size_t PackedPanels::vectors_of(std::size_t panel) const {
  return (std::min(panel_outs_, rows_ - panel * panel_outs_) + width_ - 1) / width_;
}

void PackedPanels::describe(std::size_t panel, std::size_t first, LinearTile& tile) const {
  tile.vectors = vectors_of(panel);
  tile.outs = std::min(panel_outs_, rows_ - panel * panel_outs_);
  tile.panel = data_.get() + (panel * panel_outs_ * cols_ + first * tile.vectors * width_) * size_of(dtype_);
}

}  // namespace troupe::kernels
