#include "kernels/cpu/quantised_panels.h"

#include <sys/mman.h>

#include <algorithm>
#include <cassert>
#include <cstring>
#include <new>

namespace troupe::kernels {
namespace {

// Of a huge page: weights are read end to end, and a walk of page tables every 4 KiB costs a tenth of the bandwidth.
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::align_val_t kAlignment{kHugePage};

std::size_t round_up(std::size_t value, std::size_t step) { return (value + step - 1) / step * step; }

std::size_t chunk_inputs_of(DType dtype) { return std::max(block_elements(dtype), kChunkInputs); }

std::size_t chunk_bytes_of(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0: return 1024 + 64;
    case DType::kQ4_0: return block_bytes(DType::kInt4);
    case DType::kQ4_K: return 2048 + 320;
    case DType::kQ5_K: return 2560 + 320;
    case DType::kQ6_K: return 3072 + 320;
    default: return block_bytes(dtype);
  }
}

template <class T>
void put(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

// Puts a block's quant of one output and input (below 32) where quantised_formats.h looks for it. Bits are or-ed in.
void put_quant(DType dtype, std::byte* block, std::size_t lane, std::size_t input, unsigned quant) {
  const std::size_t vector = input / 4;
  const std::size_t byte = lane * 4 + input % 4;
  if (dtype == DType::kQ8_0) {
    block[vector * 64 + byte] = static_cast<std::byte>(quant);
    return;
  }
  block[vector % 4 * 64 + byte] |= static_cast<std::byte>((quant & 15) << (vector < 4 ? 0 : 4));
  if (dtype == DType::kQ5_K) block[256 + byte] |= static_cast<std::byte>((quant >> 4) << vector);
  if (dtype == DType::kQ6_K) {
    block[256 + vector / 4 * 64 + byte] |= static_cast<std::byte>((quant >> 4) << (vector % 4 * 2));
  }
}

// Bytes of the quants of 32 inputs in a chunk.
std::size_t block_stride_of(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0: return 512;
    case DType::kQ5_K: return 320;
    case DType::kQ6_K: return 384;
    default: return 256;
  }
}

// One output's block of the stored format, at input `first` of a chunk.
void put_block(DType dtype, const SpreadBlock& block, std::byte* chunk, std::size_t lane, std::size_t first) {
  const std::size_t stride = block_stride_of(dtype);
  for (std::size_t i = 0; i < block_elements(dtype); ++i) {
    put_quant(dtype, chunk + (first + i) / 32 * stride, lane, i % 32, block.quants[i]);
  }
  std::byte* scales = chunk + chunk_inputs_of(dtype) / 32 * stride;
  if (dtype == DType::kQ8_0 || dtype == DType::kQ4_0) {
    put(scales + (first / 32 * kPanelOuts + lane) * 2, block.d);
    return;
  }
  const std::size_t subs = 256 / scale_elements(dtype);
  for (std::size_t sub = 0; sub < subs; ++sub) {
    scales[sub * kPanelOuts + lane] = static_cast<std::byte>(block.scales[sub]);
    if (dtype != DType::kQ6_K) scales[128 + sub * kPanelOuts + lane] = static_cast<std::byte>(block.mins[sub]);
  }
  put(scales + 256 + lane * 2, block.d);
  if (dtype != DType::kQ6_K) put(scales + 288 + lane * 2, block.dmin);
}

}  // namespace

void QuantisedPanels::Free::operator()(std::byte* memory) const { ::operator delete[](memory, kAlignment); }

QuantisedPanels::QuantisedPanels(const WeightView& weight)
    : dtype_(weight.dtype),
      rows_(weight.rows),
      cols_(weight.cols),
      chunk_inputs_(chunk_inputs_of(dtype_)),
      chunk_bytes_(chunk_bytes_of(dtype_)),
      padded_cols_(round_up(cols_, chunk_inputs_)),
      scales_(weight.scales) {
  assert(is_quantised(dtype_));
  if (is_panel_format(dtype_)) {
    assert(dtype_ != DType::kInt8 || (scales_ != nullptr && cols_ <= kMaxInt8Inputs));
    panel_stride_ = row_bytes(dtype_, weight.row_stride);
    first_panel_ = static_cast<const std::byte*>(weight.data);
  } else {
    panel_stride_ = panel_bytes();
    repack(weight);
    first_panel_ = repacked_.get();
  }
}

std::size_t QuantisedPanels::bytes() const {
  return panels() * panel_bytes() + (scales_ != nullptr ? rows_ * sizeof(float) : 0);
}

void QuantisedPanels::repack(const WeightView& weight) {
  const std::size_t grain = block_elements(dtype_);
  assert(cols_ % grain == 0 && weight.row_stride % grain == 0);
  const std::size_t size = panels() * panel_bytes();
  const std::size_t allocated = round_up(size, kHugePage);
  repacked_.reset(static_cast<std::byte*>(::operator new[](allocated, kAlignment)));
  ::madvise(repacked_.get(), allocated, MADV_HUGEPAGE);  // where there are none, small pages do as well
  std::memset(repacked_.get(), 0, size);
  const auto* rows = static_cast<const std::byte*>(weight.data);
  const std::size_t stored_row_bytes = row_bytes(dtype_, weight.row_stride);
  SpreadBlock spread;
  for (std::size_t row = 0; row < rows_; ++row) {
    const std::byte* from = rows + row * stored_row_bytes;
    std::byte* panel = repacked_.get() + row / kPanelOuts * panel_stride_;
    for (std::size_t col = 0; col < cols_; col += grain, from += block_bytes(dtype_)) {
      spread_block(dtype_, from, spread);
      put_block(dtype_, spread, panel + col / chunk_inputs_ * chunk_bytes_, row % kPanelOuts, col % chunk_inputs_);
    }
  }
}

}  // namespace troupe::kernels
