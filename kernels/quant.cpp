#include "kernels/quant.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>
#include <utility>

#include "kernels/cpu/half.h"

namespace troupe::kernels {
namespace {

// Scale and min of sub-block `index` of a Q4_K or Q5_K block: the lower six bits of bytes 0 to 3 (scales) and 4 to 7
// (mins) for the first four; for the rest four bits in bytes 8 to 11 and the two bits that were left over before.
std::pair<std::uint8_t, std::uint8_t> scale_and_min(const std::uint8_t* packed, std::size_t index) {
  if (index < 4) return {packed[index] & 63, packed[index + 4] & 63};
  return {static_cast<std::uint8_t>((packed[index + 4] & 15) | (packed[index - 4] >> 6) << 4),
          static_cast<std::uint8_t>(packed[index + 4] >> 4 | (packed[index] >> 6) << 4)};
}

void spread(const BlockQ8_0& block, SpreadBlock& to) {
  to.d = block.d;
  to.scales[0] = 1;
  for (std::size_t i = 0; i < 32; ++i) to.quants[i] = static_cast<std::uint8_t>(block.quants[i] + 128);
}

void spread(const BlockQ4_0& block, SpreadBlock& to) {
  to.d = block.d;
  to.scales[0] = 1;
  for (std::size_t i = 0; i < 16; ++i) {
    to.quants[i] = block.quants[i] & 15;
    to.quants[i + 16] = block.quants[i] >> 4;
  }
}

void spread(const BlockQ5_0& block, SpreadBlock& to) {
  to.d = block.d;
  to.scales[0] = 1;
  for (std::size_t i = 0; i < 16; ++i) {
    to.quants[i] = static_cast<std::uint8_t>((block.quants[i] & 15) | (block.upper[i / 8] >> (i % 8) & 1) << 4);
    to.quants[i + 16] = static_cast<std::uint8_t>(block.quants[i] >> 4 | (block.upper[2 + i / 8] >> (i % 8) & 1) << 4);
  }
}

template <class Block>
void spread_k(const Block& block, SpreadBlock& to) {
  to.d = block.d;
  to.dmin = block.dmin;
  for (std::size_t sub = 0; sub < 8; ++sub) {
    const auto [scale, min] = scale_and_min(block.scales, sub);
    to.scales[sub] = scale;
    to.mins[sub] = min;
    const int shift = sub % 2 * 4;
    for (std::size_t i = 0; i < 32; ++i) {
      to.quants[32 * sub + i] = block.quants[sub / 2 * 32 + i] >> shift & 15;
      if constexpr (requires { block.upper; }) to.quants[32 * sub + i] |= (block.upper[i] >> sub & 1) << 4;
    }
  }
}

void spread(const BlockQ6_K& block, SpreadBlock& to) {
  to.d = block.d;
  std::copy_n(block.scales, 16, to.scales);
  for (std::size_t group = 0; group < 8; ++group) {  // of 32, four in each half
    const std::uint8_t* lower = block.lower + 64 * (group / 4) + 32 * (group % 2);
    const std::uint8_t* upper = block.upper + 32 * (group / 4);
    const int lower_shift = group % 4 < 2 ? 0 : 4;
    const int upper_shift = static_cast<int>(2 * (group % 4));
    for (std::size_t j = 0; j < 32; ++j) {
      to.quants[32 * group + j] =
          static_cast<std::uint8_t>((lower[j] >> lower_shift & 15) | (upper[j] >> upper_shift & 3) << 4);
    }
  }
}

template <class Block>
Block copy_of(const void* data) {
  Block block;  // a file need not align its blocks
  std::memcpy(&block, data, sizeof block);
  return block;
}

// Of a panel format: where the quant of an output and an input lies within a chunk of bytes.
constexpr std::size_t quant_index(std::size_t out, std::size_t input) {
  return (input / 4 * kPanelOuts + out) * 4 + input % 4;
}

const std::byte* chunk_of(const WeightView& weight, std::size_t row, std::size_t chunk) {
  const std::size_t panel_bytes = row_bytes(weight.dtype, weight.row_stride);
  return static_cast<const std::byte*>(weight.data) + row / kPanelOuts * panel_bytes +
         chunk * block_bytes(weight.dtype);
}

// What lies where in a chunk of kInt4: the byte and the shift of a quant, the byte of a group's scale.
struct Int4Place {
  std::size_t byte;
  int shift;
};
Int4Place int4_place(std::size_t out, std::size_t input) {
  const std::size_t index = quant_index(out, input % kInt4Group);
  return {input / kInt4Group * 256 + index % 256, index < 256 ? 0 : 4};
}
constexpr std::size_t int4_scale_place(std::size_t out, std::size_t group) {
  return kPanelOuts * kChunkInputs / 2 + (group * kPanelOuts + out) * 2;
}

int nearest(float value, int least, int most) {
  return std::clamp(static_cast<int>(std::nearbyint(value)), least, most);
}

using Group = std::array<float, kInt4Group>;

float squared_error(const Group& group, float scale) {
  const float inverse = scale == 0 ? 0 : 1 / scale;
  float error = 0;
  for (const float w : group) {
    const float q = std::clamp(std::nearbyint(w * inverse), -8.0f, 7.0f);
    error += (w - q * scale) * (w - q * scale);
  }
  return error;
}

// The f16 bits of a scale for a group.
std::uint16_t choose_scale(const Group& group) {
  const float extreme = *std::ranges::max_element(group, {}, [](float w) { return std::abs(w); });
  // The extreme at -8 uses every step; less than that leaves it at the edge of the range and gives the rest finer
  // steps.
  float best_error = INFINITY;
  std::uint16_t best = 0;
  for (const float step : {-8.5f, -8.25f, -8.0f, -7.75f, -7.5f, -7.25f, -7.0f, -6.75f, 6.75f, 7.0f, 7.25f, 7.5f}) {
    const std::uint16_t bits = f16_of_f32(std::clamp(extreme / step, -65504.0f, 65504.0f));
    const float error = squared_error(group, f32_of_f16(bits));
    if (error < best_error) {
      best_error = error;
      best = bits;
    }
  }
  return best;
}

}  // namespace

WeightView slice(const WeightView& whole, std::size_t first_row, std::size_t rows, std::size_t first_col,
                 std::size_t cols) {
  const std::size_t grain = block_elements(whole.dtype);
  assert(first_row + rows <= whole.rows && first_col + cols <= whole.cols && first_col % grain == 0);
  WeightView part = whole;
  part.rows = rows;
  part.cols = cols;
  if (whole.scales != nullptr) part.scales = whole.scales + first_row;
  if (is_panel_format(whole.dtype)) {
    assert(first_row % kPanelOuts == 0 && (rows % kPanelOuts == 0 || first_row + rows == whole.rows));
    assert(cols % grain == 0 || first_col + cols == whole.cols);
    part.data = chunk_of(whole, first_row, first_col / grain);
  } else {
    assert(!is_block_format(whole.dtype) || cols % grain == 0);
    part.data = static_cast<const std::byte*>(whole.data) + first_row * row_bytes(whole.dtype, whole.row_stride) +
                row_bytes(whole.dtype, first_col);
  }
  return part;
}

void spread_block(DType dtype, const void* block, SpreadBlock& to) {
  switch (dtype) {
    case DType::kQ8_0: return spread(copy_of<BlockQ8_0>(block), to);
    case DType::kQ4_0: return spread(copy_of<BlockQ4_0>(block), to);
    case DType::kQ5_0: return spread(copy_of<BlockQ5_0>(block), to);
    case DType::kQ4_K: return spread_k(copy_of<BlockQ4_K>(block), to);
    case DType::kQ5_K: return spread_k(copy_of<BlockQ5_K>(block), to);
    default: assert(dtype == DType::kQ6_K); return spread(copy_of<BlockQ6_K>(block), to);
  }
}

void dequantize(DType dtype, const void* blocks, std::size_t elements, float* out) {
  assert(is_block_format(dtype) && elements % block_elements(dtype) == 0);
  const auto* block = static_cast<const std::byte*>(blocks);
  const std::size_t in_scale = scale_elements(dtype);
  const bool has_mins = dtype == DType::kQ4_K || dtype == DType::kQ5_K;
  SpreadBlock spread;
  for (std::size_t first = 0; first < elements; first += block_elements(dtype), block += block_bytes(dtype)) {
    spread_block(dtype, block, spread);
    const float d = f32_of_f16(spread.d);
    for (std::size_t i = 0; i < block_elements(dtype); ++i) {
      const float scale = d * spread.scales[i / in_scale];
      const float min = has_mins ? f32_of_f16(spread.dmin) * spread.mins[i / in_scale] : 0.0f;
      out[first + i] = scale * static_cast<float>(spread.quants[i] - quant_offset(dtype)) - min;
    }
  }
}

void dequantize_row(const WeightView& weight, std::size_t row, float* out) {
  assert(row < weight.rows);
  if (is_block_format(weight.dtype)) {
    const auto* blocks = static_cast<const std::byte*>(weight.data) + row * row_bytes(weight.dtype, weight.row_stride);
    return dequantize(weight.dtype, blocks, weight.cols, out);
  }
  assert(is_panel_format(weight.dtype));
  const std::size_t lane = row % kPanelOuts;
  for (std::size_t col = 0; col < weight.cols; ++col) {
    const std::byte* chunk = chunk_of(weight, row, col / kChunkInputs);
    const std::size_t input = col % kChunkInputs;
    if (weight.dtype == DType::kInt8) {
      out[col] = weight.scales[row] * static_cast<float>(std::to_integer<int>(chunk[quant_index(lane, input)]) - 128);
      continue;
    }
    const auto [byte, shift] = int4_place(lane, input);
    std::uint16_t scale;
    std::memcpy(&scale, chunk + int4_scale_place(lane, input / kInt4Group), sizeof scale);
    out[col] = f32_of_f16(scale) * static_cast<float>((std::to_integer<int>(chunk[byte]) >> shift & 15) - 8);
  }
}

void quantize_int8(ConstMatrixF32 weight, void* panels, std::span<float> scales) {
  assert(scales.size() == weight.rows && weight.cols <= kMaxInt8Inputs);
  const WeightView to{panels, DType::kInt8, weight.rows, weight.cols, weight.cols};
  std::memset(panels, 128, matrix_bytes(DType::kInt8, weight.rows, weight.cols));
  for (std::size_t row = 0; row < weight.rows; ++row) {
    const float* from = weight.row(row);
    float largest = 0;
    for (std::size_t col = 0; col < weight.cols; ++col) largest = std::max(largest, std::abs(from[col]));
    scales[row] = largest / 127;
    const float inverse = scales[row] == 0 ? 0 : 1 / scales[row];
    for (std::size_t col = 0; col < weight.cols; ++col) {
      auto* chunk = const_cast<std::byte*>(chunk_of(to, row, col / kChunkInputs));
      const int quant = std::isfinite(inverse) ? nearest(from[col] * inverse, -127, 127) : 0;
      chunk[quant_index(row % kPanelOuts, col % kChunkInputs)] = static_cast<std::byte>(quant + 128);
    }
  }
}

void quantize_int4(ConstMatrixF32 weight, void* panels) {
  const WeightView to{panels, DType::kInt4, weight.rows, weight.cols, weight.cols};
  // Zero scales: what fills the last panel and the last chunk up.
  std::memset(panels, 0, matrix_bytes(DType::kInt4, weight.rows, weight.cols));
  for (std::size_t row = 0; row < weight.rows; ++row) {
    const std::size_t lane = row % kPanelOuts;
    for (std::size_t first = 0; first < weight.cols; first += kInt4Group) {
      Group group = {};
      std::copy_n(weight.row(row) + first, std::min(kInt4Group, weight.cols - first), group.begin());
      const std::uint16_t bits = choose_scale(group);
      const float scale = f32_of_f16(bits);
      auto* chunk = const_cast<std::byte*>(chunk_of(to, row, first / kChunkInputs));
      std::memcpy(chunk + int4_scale_place(lane, first % kChunkInputs / kInt4Group), &bits, sizeof bits);
      for (std::size_t i = 0; i < kInt4Group; ++i) {
        const int quant = scale == 0 ? 0 : nearest(group[i] / scale, -8, 7);
        const auto [byte, shift] = int4_place(lane, first % kChunkInputs + i);
        chunk[byte] |= static_cast<std::byte>((quant + 8) << shift);
      }
    }
  }
}

}  // namespace troupe::kernels
