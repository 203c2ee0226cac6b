#include "kernels/cuda/packed_weight.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>

#include "kernels/cpu/half.h"

namespace troupe::kernels {
namespace {

constexpr std::size_t kLanes = 32;
constexpr std::size_t kStepInputBytes = 32;  // of a row's unit
constexpr std::size_t kStepBytes = 512;      // fragments of a step whose words are stored whole

// What each output of a panel has in a unit; zeros where the weight has nothing.
struct Unit {
  alignas(64) std::uint8_t rows[kGpuPanelOuts][kGpuUnitBytes];
};

using Words = std::uint32_t __attribute__((vector_size(16)));

Words words_at(const std::uint8_t* from) {
  Words words;
  std::memcpy(&words, from, sizeof words);
  return words;
}

// Fragments of the step that begins at byte `at` of each row: a lane has a word of each of four registers, and a row
// the words of four lanes.
void put_step(const Unit& unit, std::size_t at, std::byte* to) {
  for (std::size_t out = 0; out < 8; ++out) {
    const std::uint8_t* row = unit.rows[out] + at;
    const std::uint8_t* other = unit.rows[out + 8] + at;
    const Words r0 = words_at(row), r1 = words_at(other), r2 = words_at(row + 16), r3 = words_at(other + 16);
    const Words lower01 = __builtin_shufflevector(r0, r1, 0, 4, 1, 5);
    const Words lower23 = __builtin_shufflevector(r2, r3, 0, 4, 1, 5);
    const Words upper01 = __builtin_shufflevector(r0, r1, 2, 6, 3, 7);
    const Words upper23 = __builtin_shufflevector(r2, r3, 2, 6, 3, 7);
    const Words lanes[] = {
        __builtin_shufflevector(lower01, lower23, 0, 1, 4, 5), __builtin_shufflevector(lower01, lower23, 2, 3, 6, 7),
        __builtin_shufflevector(upper01, upper23, 0, 1, 4, 5), __builtin_shufflevector(upper01, upper23, 2, 3, 6, 7)};
    std::memcpy(to + out * sizeof lanes, lanes, sizeof lanes);
  }
}

void put_whole(const Unit& unit, std::byte* to) {
  put_step(unit, 0, to);
  put_step(unit, kStepInputBytes, to + kStepBytes);
}

// Bits of a quant beyond four: of four members of a group side by side, a byte each.
template <int kBits>
void put_upper(const Unit& unit, std::byte* to) {
  using Bytes = std::uint8_t __attribute__((vector_size(16)));
  constexpr std::uint8_t kMask = (1 << kBits) - 1;
  for (std::size_t out = 0; out < 8; ++out) {
    Bytes bits[kBits] = {};
    for (std::size_t step = 0; step < 2; ++step) {
      for (std::size_t reg = 0; reg < 4; ++reg) {
        const auto upper =
            reinterpret_cast<Bytes>(words_at(unit.rows[out + reg % 2 * 8] + step * kStepInputBytes + reg / 2 * 16));
        const auto shift = static_cast<std::uint8_t>(kBits == 1 ? 4 * step + reg : 2 * reg);
        bits[kBits == 1 ? 0 : step] |= (upper >> 4 & kMask) << shift;
      }
    }
    for (std::size_t member = 0; member < 4; ++member) {
      std::byte* lane = to + (out * 4 + member) * 4 * kBits;
      for (std::size_t step = 0; step < kBits; ++step) {
        const std::uint32_t word = reinterpret_cast<Words>(bits[step])[member];
        std::memcpy(lane + 4 * step, &word, sizeof word);
      }
    }
  }
}

int narrow_bits(DType dtype) {
  return dtype == DType::kQ6_K ? 6 : dtype == DType::kQ5_0 || dtype == DType::kQ5_K ? 5 : 4;
}

// Whether quants have eight bits, which are stored signed.
bool is_wide(DType dtype) { return dtype == DType::kQ8_0 || dtype == DType::kInt8; }

// The quants of a unit, as stored.
std::size_t quant_bytes(DType dtype) {
  if (is_wide(dtype)) return 2 * kStepBytes;
  return kStepBytes + (narrow_bits(dtype) - 4) * kLanes * 4;
}

void put_quants(DType dtype, const Unit& unit, std::byte* to) {
  if (is_wide(dtype)) return put_whole(unit, to);
  Unit lower;
  for (std::size_t out = 0; out < kGpuPanelOuts; ++out) {
    const std::uint8_t* quants = unit.rows[out];
    for (std::size_t i = 0; i < kStepInputBytes; ++i) {
      lower.rows[out][i] = static_cast<std::uint8_t>((quants[i] & 15) | quants[i + kStepInputBytes] << 4);
    }
  }
  put_step(lower, 0, to);
  if (narrow_bits(dtype) == 5) put_upper<1>(unit, to + kStepBytes);
  if (narrow_bits(dtype) == 6) put_upper<2>(unit, to + kStepBytes);
}

template <class T>
void put(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof value);
}

std::size_t spread_scale_place(std::size_t out, std::size_t block) { return (out % 8 * 4 + out / 8 * 2 + block) * 2; }

// The part of a weight that becomes one chunk of a panel.
struct Source {
  const WeightView& weight;
  std::size_t first_row;
  std::size_t rows;  // at most kGpuPanelOuts
  std::size_t chunk;

  const std::byte* blocks(std::size_t row, std::size_t first) const {
    return static_cast<const std::byte*>(weight.data) + (first_row + row) * row_bytes(weight.dtype, weight.row_stride) +
           first * block_bytes(weight.dtype);
  }
};

void clear_from(Unit& unit, std::size_t rows) {
  std::memset(unit.rows[0] + rows * kGpuUnitBytes, 0, (kGpuPanelOuts - rows) * kGpuUnitBytes);
}

// Two blocks of 32.
void pack_blocks(const Source& source, std::byte* to) {
  const DType dtype = source.weight.dtype;
  const std::size_t first = 2 * source.chunk;
  const std::size_t count = std::min<std::size_t>(2, source.weight.cols / 32 - first);
  std::byte* const scales = to + quant_bytes(dtype);
  std::memset(scales, 0, gpu_chunk_bytes(dtype) - quant_bytes(dtype));
  Unit unit;
  clear_from(unit, count == 2 ? source.rows : 0);
  SpreadBlock spread;
  for (std::size_t row = 0; row < source.rows; ++row) {
    for (std::size_t block = 0; block < count; ++block) {
      const std::byte* from = source.blocks(row, first + block);
      std::uint8_t* quants = unit.rows[row] + 32 * block;
      if (dtype == DType::kQ8_0) {  // stored as they are
        std::memcpy(quants, from + offsetof(BlockQ8_0, quants), 32);
        std::memcpy(scales + spread_scale_place(row, block), from + offsetof(BlockQ8_0, d), sizeof spread.d);
        continue;
      }
      spread_block(dtype, from, spread);
      std::memcpy(quants, spread.quants, 32);
      put(scales + spread_scale_place(row, block), spread.d);
    }
  }
  put_quants(dtype, unit, to);
}

// A block of 256.
void pack_k_block(const Source& source, std::byte* to) {
  const DType dtype = source.weight.dtype;
  std::byte* const scales = to + 4 * quant_bytes(dtype);
  std::memset(scales, 0, gpu_chunk_bytes(dtype) - 4 * quant_bytes(dtype));
  Unit units[4];
  for (Unit& unit : units) clear_from(unit, source.rows);
  SpreadBlock spread;
  for (std::size_t row = 0; row < source.rows; ++row) {
    spread_block(dtype, source.blocks(row, source.chunk), spread);
    for (std::size_t i = 0; i < 4; ++i) std::memcpy(units[i].rows[row], spread.quants + 64 * i, 64);
    if (dtype == DType::kQ6_K) {
      for (std::size_t i = 0; i < 16; ++i) scales[row * 16 + i] = static_cast<std::byte>(spread.scales[i]);
      put(scales + 256 + (row % 8 * 2 + row / 8) * 2, spread.d);
    } else {
      for (std::size_t i = 0; i < 8; ++i) {
        scales[row * 16 + i] = static_cast<std::byte>(spread.scales[i]);
        scales[row * 16 + 8 + i] = static_cast<std::byte>(spread.mins[i]);
      }
      put(scales + 256 + (row % 8 * 4 + row / 8 * 2) * 2, spread.d);
      put(scales + 256 + (row % 8 * 4 + row / 8 * 2 + 1) * 2, spread.dmin);
    }
  }
  for (std::size_t i = 0; i < 4; ++i) put_quants(dtype, units[i], to + i * quant_bytes(dtype));
}

// A chunk of a panel format: the same quants in another order (kernels/quant.h).
void pack_panel_chunk(const Source& source, std::byte* to) {
  const DType dtype = source.weight.dtype;
  const std::byte* from = static_cast<const std::byte*>(source.weight.data) +
                          source.first_row / kPanelOuts * row_bytes(dtype, source.weight.row_stride) +
                          source.chunk * block_bytes(dtype);
  const std::size_t count = std::min(kChunkInputs, source.weight.cols - source.chunk * kChunkInputs);
  Unit unit;
  clear_from(unit, 0);
  for (std::size_t first = 0; first < count; first += 4) {
    const std::size_t index = first % kInt4Group / 4 * kPanelOuts * 4;
    const std::byte* quants =
        from + (dtype == DType::kInt8 ? first * kPanelOuts : first / kInt4Group * 256 + index % 256);
    const std::uint32_t past = first + 4 <= count ? 0 : ~0u << (count - first) * 8;  // bytes beyond the last input
    for (std::size_t row = 0; row < source.rows; ++row) {
      std::uint32_t word;
      std::memcpy(&word, quants + row * 4, sizeof word);
      word = dtype == DType::kInt8 ? word ^ 0x80808080u : word >> (index < 256 ? 0 : 4) & 0x0f0f0f0fu;
      word &= ~past;
      std::memcpy(unit.rows[row] + first, &word, sizeof word);
    }
  }
  put_quants(dtype, unit, to);
  if (dtype == DType::kInt8) return;
  std::byte* const scales = to + quant_bytes(dtype);
  std::memset(scales, 0, gpu_chunk_bytes(dtype) - quant_bytes(dtype));
  for (std::size_t group = 0; group < kChunkInputs / kInt4Group; ++group) {
    for (std::size_t row = 0; row < source.rows; ++row) {
      std::memcpy(scales + spread_scale_place(row, group), from + 512 + (group * kPanelOuts + row) * 2, 2);
    }
  }
}

void pack_floats(const Source& source, std::byte* to) {
  const WeightView& weight = source.weight;
  const std::size_t first = source.chunk * gpu_unit_inputs(weight.dtype);
  const std::size_t count = std::min(gpu_unit_inputs(weight.dtype), weight.cols - first);
  const bool is_whole = count == gpu_unit_inputs(weight.dtype);
  Unit unit;
  clear_from(unit, is_whole ? source.rows : 0);
  if (weight.dtype != DType::kF32) {
    for (std::size_t row = 0; row < source.rows; ++row) {
      const std::byte* from = source.blocks(row, first);
      is_whole ? std::memcpy(unit.rows[row], from, kGpuUnitBytes) : std::memcpy(unit.rows[row], from, 2 * count);
    }
    return put_whole(unit, to);
  }
  Unit rest;
  clear_from(rest, is_whole ? source.rows : 0);
  for (std::size_t row = 0; row < source.rows; ++row) {
    for (std::size_t i = 0; i < count; ++i) {
      float value;
      std::memcpy(&value, source.blocks(row, first + i), sizeof value);
      const std::uint16_t upper = bf16_of_f32(value);
      const std::uint16_t lower = std::isfinite(f32_of_bf16(upper)) ? bf16_of_f32(value - f32_of_bf16(upper)) : 0;
      std::memcpy(unit.rows[row] + 2 * i, &upper, sizeof upper);
      std::memcpy(rest.rows[row] + 2 * i, &lower, sizeof lower);
    }
  }
  put_whole(unit, to);
  put_whole(rest, to + 2 * kStepBytes);
}

}  // namespace

std::size_t gpu_image_bytes(DType dtype, std::size_t rows, std::size_t cols) {
  const std::size_t panels = gpu_panels(rows);
  const std::size_t scales = dtype == DType::kInt8 ? panels * kGpuPanelOuts * sizeof(float) : 0;
  return panels * gpu_panel_bytes(dtype, cols) + scales;
}

void pack_chunks_for_gpu(const WeightView& weight, std::size_t first_chunk, std::span<std::byte> chunks) {
  const DType dtype = weight.dtype;
  const std::size_t chunk_bytes = gpu_chunk_bytes(dtype);
  const std::size_t in_panel = gpu_panel_bytes(dtype, weight.cols) / chunk_bytes;
  assert(chunks.size() % chunk_bytes == 0);
  assert(first_chunk + chunks.size() / chunk_bytes <= gpu_panels(weight.rows) * in_panel);
  assert(is_float_storage(dtype) || is_quantised(dtype));
  assert(!is_block_format(dtype) || weight.cols % block_elements(dtype) == 0);
  for (std::size_t i = 0; i * chunk_bytes < chunks.size(); ++i) {
    const std::size_t first_row = (first_chunk + i) / in_panel * kGpuPanelOuts;
    const Source source{weight, first_row, std::min(kGpuPanelOuts, weight.rows - first_row),
                        (first_chunk + i) % in_panel};
    std::byte* const to = chunks.data() + i * chunk_bytes;
    if (is_panel_format(dtype)) {
      pack_panel_chunk(source, to);
    } else if (gpu_chunk_units(dtype) == 4) {
      pack_k_block(source, to);
    } else if (is_block_format(dtype)) {
      pack_blocks(source, to);
    } else {
      pack_floats(source, to);
    }
  }
}

void pack_scales_for_gpu(const WeightView& weight, std::span<float> scales) {
  assert(weight.dtype == DType::kInt8 && weight.scales != nullptr && weight.cols <= kMaxInt8Inputs);
  assert(scales.size() == gpu_panels(weight.rows) * kGpuPanelOuts);
  std::copy_n(weight.scales, weight.rows, scales.begin());
  std::fill(scales.begin() + static_cast<std::ptrdiff_t>(weight.rows), scales.end(), 0.0f);
}

void pack_for_gpu(const WeightView& weight, std::span<std::byte> image) {
  assert(image.size() == gpu_image_bytes(weight.dtype, weight.rows, weight.cols));
  const std::size_t bytes = gpu_panels(weight.rows) * gpu_panel_bytes(weight.dtype, weight.cols);
  pack_chunks_for_gpu(weight, 0, image.first(bytes));
  if (weight.dtype != DType::kInt8) return;
  pack_scales_for_gpu(weight, {reinterpret_cast<float*>(image.data() + bytes), (image.size() - bytes) / sizeof(float)});
}

}  // namespace troupe::kernels
