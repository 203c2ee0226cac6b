#include "kernels/cuda/packed_weight.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

#include "kernels/cpu/half.h"

namespace troupe::kernels {
namespace {

constexpr std::size_t kLanes = 32;
constexpr std::size_t kStepBytes = 512;  // fragments of a step whose words are stored whole

template <class T>
void put(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

template <class T>
void merge(std::byte* to, T bits) {
  T value;
  std::memcpy(&value, to, sizeof value);
  put(to, static_cast<T>(value | bits));
}

// Where a word of an output's unit goes: word 0 to 15, eight to each step.
struct Fragment {
  std::size_t lane;
  std::size_t step;
  std::size_t reg;
};
Fragment fragment_of(std::size_t out, std::size_t word) {
  return {out % 8 * 4 + word % 4, word / 8, out / 8 + word % 8 / 4 * 2};
}

void put_word(std::byte* unit, std::size_t out, std::size_t word, std::uint32_t value) {
  const auto [lane, step, reg] = fragment_of(out, word);
  put(unit + step * kStepBytes + lane * 16 + reg * 4, value);
}

// Four quants of up to six bits, the lower four in one place and the rest in another.
void put_narrow_word(std::byte* unit, int bits, std::size_t out, std::size_t word, std::uint32_t quants) {
  const auto [lane, step, reg] = fragment_of(out, word);
  merge(unit + lane * 16 + reg * 4, (quants & 0x0f0f0f0f) << (4 * step));
  std::byte* upper = unit + kStepBytes;
  if (bits == 5) merge(upper + lane * 4, (quants >> 4 & 0x01010101) << (4 * step + reg));
  if (bits == 6) merge(upper + lane * 8 + step * 4, (quants >> 4 & 0x03030303) << (2 * reg));
}

int narrow_bits(DType dtype) {
  return dtype == DType::kQ6_K ? 6 : dtype == DType::kQ5_0 || dtype == DType::kQ5_K ? 5 : 4;
}

// The quants of a unit, as stored (unsigned).
std::size_t quant_bytes(DType dtype) {
  if (dtype == DType::kQ8_0 || dtype == DType::kInt8) return 2 * kStepBytes;
  return kStepBytes + (narrow_bits(dtype) - 4) * kLanes * 4;
}

std::size_t spread_scale_place(std::size_t out, std::size_t block) { return (out % 8 * 4 + out / 8 * 2 + block) * 2; }

// 64 quants of one output; fewer where inputs end.
void put_quants(DType dtype, std::byte* unit, std::size_t out, const std::uint8_t* quants, std::size_t count) {
  std::uint8_t padded[64];
  // A quant of eight bits is stored signed, and zero is the offset.
  const bool wide = dtype == DType::kQ8_0 || dtype == DType::kInt8;
  std::memset(padded, wide ? 128 : 0, sizeof padded);
  std::copy_n(quants, count, padded);
  for (std::size_t word = 0; word < 16; ++word) {
    std::uint32_t four;
    std::memcpy(&four, padded + 4 * word, sizeof four);
    if (wide) {
      put_word(unit, out, word, four ^ 0x80808080u);
    } else {
      put_narrow_word(unit, narrow_bits(dtype), out, word, four);
    }
  }
}

// The blocks of 32 of a row, one after the other.
void pack_block_row(const WeightView& weight, std::size_t row, std::byte* panel) {
  const std::size_t out = row % kGpuPanelOuts;
  const auto* from = static_cast<const std::byte*>(weight.data) + row * row_bytes(weight.dtype, weight.row_stride);
  SpreadBlock spread, next;
  for (std::size_t col = 0; col < weight.cols; col += 64) {
    std::byte* unit = panel + col / 64 * gpu_chunk_bytes(weight.dtype);
    std::byte* scales = unit + quant_bytes(weight.dtype);
    const bool both = col + 32 < weight.cols;
    spread_block(weight.dtype, from + col / 32 * block_bytes(weight.dtype), spread);
    put(scales + spread_scale_place(out, 0), spread.d);
    if (both) {
      spread_block(weight.dtype, from + (col / 32 + 1) * block_bytes(weight.dtype), next);
      std::copy_n(next.quants, 32, spread.quants + 32);
      put(scales + spread_scale_place(out, 1), next.d);
    }
    put_quants(weight.dtype, unit, out, spread.quants, both ? 64 : 32);
  }
}

// The blocks of 256 of a row.
void pack_k_row(const WeightView& weight, std::size_t row, std::byte* panel) {
  const DType dtype = weight.dtype;
  const std::size_t out = row % kGpuPanelOuts;
  const auto* from = static_cast<const std::byte*>(weight.data) + row * row_bytes(dtype, weight.row_stride);
  const std::size_t unit_bytes = quant_bytes(dtype);
  SpreadBlock spread;
  for (std::size_t block = 0; block < weight.cols / 256; ++block) {
    std::byte* chunk = panel + block * gpu_chunk_bytes(dtype);
    spread_block(dtype, from + block * block_bytes(dtype), spread);
    for (std::size_t unit = 0; unit < 4; ++unit) {
      put_quants(dtype, chunk + unit * unit_bytes, out, spread.quants + 64 * unit, 64);
    }
    std::byte* scales = chunk + 4 * unit_bytes;
    if (dtype == DType::kQ6_K) {
      for (std::size_t i = 0; i < 16; ++i) scales[out * 16 + i] = static_cast<std::byte>(spread.scales[i]);
      put(scales + 256 + (out % 8 * 2 + out / 8) * 2, spread.d);
    } else {
      for (std::size_t i = 0; i < 8; ++i) {
        scales[out * 16 + i] = static_cast<std::byte>(spread.scales[i]);
        scales[out * 16 + 8 + i] = static_cast<std::byte>(spread.mins[i]);
      }
      put(scales + 256 + (out % 8 * 4 + out / 8 * 2) * 2, spread.d);
      put(scales + 256 + (out % 8 * 4 + out / 8 * 2 + 1) * 2, spread.dmin);
    }
  }
}

// A row of a panel format: the same quants in another order (kernels/quant.h).
void pack_panel_row(const WeightView& weight, std::size_t row, std::byte* panel) {
  const DType dtype = weight.dtype;
  const std::size_t out = row % kGpuPanelOuts;
  const auto* from =
      static_cast<const std::byte*>(weight.data) + row / kPanelOuts * row_bytes(dtype, weight.row_stride);
  std::uint8_t quants[64];
  for (std::size_t col = 0; col < weight.cols; col += 64, from += block_bytes(dtype)) {
    std::byte* unit = panel + col / 64 * gpu_chunk_bytes(dtype);
    const std::size_t count = std::min<std::size_t>(64, weight.cols - col);
    for (std::size_t i = 0; i < count; ++i) {
      const bool int8 = dtype == DType::kInt8;
      const std::size_t index = ((int8 ? i : i % kInt4Group) / 4 * kPanelOuts + out) * 4 + i % 4;
      quants[i] =
          int8 ? std::to_integer<std::uint8_t>(from[index])
               : std::to_integer<std::uint8_t>(from[i / kInt4Group * 256 + index % 256]) >> (index < 256 ? 0 : 4) & 15;
    }
    put_quants(dtype, unit, out, quants, count);
    if (dtype == DType::kInt8) continue;
    for (std::size_t group = 0; group < 2; ++group) {
      std::uint16_t scale;
      std::memcpy(&scale, from + 512 + (group * kPanelOuts + out) * 2, sizeof scale);
      put(unit + quant_bytes(dtype) + spread_scale_place(out, group), scale);
    }
  }
}

void pack_float_row(const WeightView& weight, std::size_t row, std::byte* panel) {
  const std::size_t out = row % kGpuPanelOuts;
  for (std::size_t col = 0; col < weight.cols; col += 2) {
    std::uint32_t word = 0, rest = 0;
    for (std::size_t i = 0; i < std::min<std::size_t>(2, weight.cols - col); ++i) {
      const std::size_t index = row * weight.row_stride + col + i;
      std::uint16_t bits;
      if (weight.dtype == DType::kF32) {
        const float value = load_as_f32(weight.data, weight.dtype, index);
        bits = bf16_of_f32(value);
        const float upper = f32_of_bf16(bits);
        if (std::isfinite(upper)) rest |= std::uint32_t{bf16_of_f32(value - upper)} << (16 * i);
      } else {
        std::memcpy(&bits, static_cast<const std::byte*>(weight.data) + index * 2, sizeof bits);
      }
      word |= std::uint32_t{bits} << (16 * i);
    }
    std::byte* unit = panel + col / 32 * gpu_chunk_bytes(weight.dtype);
    put_word(unit, out, col % 32 / 2, word);
    if (weight.dtype == DType::kF32) put_word(unit + 2 * kStepBytes, out, col % 32 / 2, rest);
  }
}

}  // namespace

std::size_t gpu_image_bytes(DType dtype, std::size_t rows, std::size_t cols) {
  const std::size_t panels = gpu_panels(rows);
  const std::size_t scales = dtype == DType::kInt8 ? panels * kGpuPanelOuts * sizeof(float) : 0;
  return panels * gpu_panel_bytes(dtype, cols) + scales;
}

void pack_for_gpu(const WeightView& weight, std::span<std::byte> image) {
  const DType dtype = weight.dtype;
  assert(image.size() == gpu_image_bytes(dtype, weight.rows, weight.cols));
  assert(!is_block_format(dtype) || weight.cols % block_elements(dtype) == 0);
  assert(dtype != DType::kInt8 || (weight.scales != nullptr && weight.cols <= kMaxInt8Inputs));
  std::ranges::fill(image, std::byte{0});
  const std::size_t panel_bytes = gpu_panel_bytes(dtype, weight.cols);
  for (std::size_t row = 0; row < weight.rows; ++row) {
    std::byte* panel = image.data() + row / kGpuPanelOuts * panel_bytes;
    if (is_panel_format(dtype)) {
      pack_panel_row(weight, row, panel);
    } else if (gpu_chunk_units(dtype) == 4) {
      pack_k_row(weight, row, panel);
    } else if (is_block_format(dtype)) {
      pack_block_row(weight, row, panel);
    } else {
      assert(is_float_storage(dtype));
      pack_float_row(weight, row, panel);
    }
  }
  if (dtype == DType::kInt8) {
    std::memcpy(image.data() + gpu_panels(weight.rows) * panel_bytes, weight.scales, weight.rows * sizeof(float));
  }
}

}  // namespace troupe::kernels
