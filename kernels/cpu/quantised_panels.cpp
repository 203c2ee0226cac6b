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

constexpr std::size_t kScalesKBytes = 320;  // of a chunk of a K format, before its quants

std::size_t chunk_bytes_of(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0: return 1024 + 64;
    case DType::kQ4_0: return block_bytes(DType::kInt4);
    case DType::kQ5_0: return 640 + 64;
    case DType::kQ4_K: return kScalesKBytes + 2048;
    case DType::kQ5_K: return kScalesKBytes + 2560;
    case DType::kQ6_K: return kScalesKBytes + 3072;
    default: return block_bytes(dtype);
  }
}

template <class T>
void put(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

// Puts one output's quants of 32 inputs where quantised_formats.h looks for them, four inputs at a time.
void put_quants(DType dtype, const std::uint8_t* quants, std::byte* block, std::size_t lane) {
  std::uint32_t fours[8];
  std::memcpy(fours, quants, sizeof fours);
  std::byte* to = block + lane * 4;
  if (dtype == DType::kQ8_0) {
    for (std::size_t i = 0; i < 8; ++i) put(to + 64 * i, fours[i]);
    return;
  }
  constexpr std::uint32_t kLower = 0x0f0f0f0f;
  for (std::size_t i = 0; i < 4; ++i) put(to + 64 * i, (fours[i] & kLower) | (fours[i + 4] & kLower) << 4);
  if (dtype == DType::kQ5_0 || dtype == DType::kQ5_K) {
    std::uint32_t upper = 0;
    for (std::size_t i = 0; i < 8; ++i) upper |= (fours[i] >> 4 & 0x01010101) << i;
    put(to + 256, upper);
  } else if (dtype == DType::kQ6_K) {
    std::uint32_t upper[2] = {};
    for (std::size_t i = 0; i < 8; ++i) upper[i / 4] |= (fours[i] >> 4 & 0x03030303) << (2 * (i % 4));
    put(to + 256, upper[0]);
    put(to + 320, upper[1]);
  }
}

// Bytes of the quants of 32 inputs in a chunk.
std::size_t block_stride_of(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0: return 512;
    case DType::kQ5_0:
    case DType::kQ5_K: return 320;
    case DType::kQ6_K: return 384;
    default: return 256;
  }
}

// One output's block of the stored format, at input `first` of a chunk.
void put_block(DType dtype, const SpreadBlock& block, std::byte* chunk, std::size_t lane, std::size_t first) {
  const std::size_t stride = block_stride_of(dtype);
  const bool is_k = block_elements(dtype) == 256;
  std::byte* quants = chunk + (is_k ? kScalesKBytes : 0);
  std::byte* scales = is_k ? chunk : chunk + chunk_inputs_of(dtype) / 32 * stride;
  for (std::size_t i = 0; i < block_elements(dtype); i += 32) {
    put_quants(dtype, block.quants + i, quants + (first + i) / 32 * stride, lane);
  }
  if (!is_k) {
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

QuantisedPanels::QuantisedPanels(const WeightView& weight, Team& team, std::span<const std::byte> image)
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
    copy(weight, team);
  } else {
    repack(weight, team, image);
  }
}

void QuantisedPanels::allocate() {
  const std::size_t allocated = round_up(panels() * panel_bytes(), kHugePage);
  memory_.reset(static_cast<std::byte*>(::operator new[](allocated, kAlignment)));
  ::madvise(memory_.get(), allocated, MADV_HUGEPAGE);  // where there are none, small pages do as well
}

// The layout is the same; but a file is mapped in small pages, of which a core looks up more than it can wait for.
void QuantisedPanels::copy(const WeightView& weight, Team& team) {
  allocate();
  const auto* from = static_cast<const std::byte*>(weight.data);
  const std::size_t stride = row_bytes(dtype_, weight.row_stride);
  team.run(panels(), [&](std::size_t index, std::size_t) {
    std::memcpy(memory_.get() + index * panel_bytes(), from + index * stride, panel_bytes());
  });
}

std::size_t QuantisedPanels::bytes() const {
  return panels() * panel_bytes() + (scales_ != nullptr ? rows_ * sizeof(float) : 0);
}

void QuantisedPanels::repack(const WeightView& weight, Team& team, std::span<const std::byte> image) {
  const std::size_t grain = block_elements(dtype_);
  assert(cols_ % grain == 0 && weight.row_stride % grain == 0);
  allocate();
  const std::size_t size = panels() * panel_bytes();
  const auto* rows = static_cast<const std::byte*>(weight.data);
  const std::size_t stored_row_bytes = row_bytes(dtype_, weight.row_stride);
  team.run(panels(), [&](std::size_t index, std::size_t) {
    std::byte* panel = memory_.get() + index * panel_bytes();
    if (image.size() == size) {
      std::memcpy(panel, image.data() + index * panel_bytes(), panel_bytes());
      return;
    }
    std::memset(panel, 0, panel_bytes());
    SpreadBlock spread;
    for (std::size_t row = index * kPanelOuts; row < std::min(rows_, (index + 1) * kPanelOuts); ++row) {
      const std::byte* from = rows + row * stored_row_bytes;
      for (std::size_t col = 0; col < cols_; col += grain, from += block_bytes(dtype_)) {
        spread_block(dtype_, from, spread);
        put_block(dtype_, spread, panel + col / chunk_inputs_ * chunk_bytes_, row % kPanelOuts, col % chunk_inputs_);
      }
    }
  });
}

}  // namespace troupe::kernels
