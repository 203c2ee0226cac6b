#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/quant.h"
#include "tests/kernels/implementations.h"

namespace troupe::kernels {

inline constexpr DType kFormats[] = {DType::kQ8_0, DType::kQ4_0, DType::kQ5_0, DType::kQ4_K,
                                     DType::kQ5_K, DType::kQ6_K, DType::kInt8, DType::kInt4};

// Any bytes are a weight, but for scales that are not finite. `extreme`: every quant, scale and min at one end.
class AnyWeight {
 public:
  AnyWeight(DType dtype, std::size_t rows, std::size_t cols, std::size_t gap, Random& random, bool extreme = false)
      : bytes_(matrix_bytes(dtype, rows, cols + gap) + 64), scales_(rows) {
    auto* data = bytes_.data() + (64 - reinterpret_cast<std::uintptr_t>(bytes_.data()) % 64) % 64;
    const std::size_t size = matrix_bytes(dtype, rows, cols + gap);
    const auto end = static_cast<std::byte>(random.pick(0, 1) * 255);
    for (std::size_t i = 0; i < size; ++i) data[i] = extreme ? end : static_cast<std::byte>(random.pick(0, 255));
    const std::size_t stride = block_bytes(dtype);
    for (std::size_t at = 0; at < size; at += stride) {
      for (const std::size_t place : scale_places(dtype)) {
        const float scale = extreme ? 60000.0f : random.normal() * 0.01f;
        store_from_f32(scale, data + at + place, DType::kF16, 0);
      }
    }
    for (float& scale : scales_) scale = extreme ? 1e6f : random.normal() * 0.01f;
    view_ = {data, dtype, rows, cols, cols + gap, dtype == DType::kInt8 ? scales_.data() : nullptr};
  }
  AnyWeight(const AnyWeight&) = delete;
  AnyWeight& operator=(const AnyWeight&) = delete;

  const WeightView& view() const { return view_; }

 private:
  // Of the f16 numbers in a block.
  static std::vector<std::size_t> scale_places(DType dtype) {
    std::vector<std::size_t> places;
    switch (dtype) {
      case DType::kQ8_0:
      case DType::kQ4_0:
      case DType::kQ5_0: return {0};
      case DType::kQ4_K:
      case DType::kQ5_K: return {0, 2};
      case DType::kQ6_K: return {offsetof(BlockQ6_K, d)};
      case DType::kInt4:
        for (std::size_t i = 0; i < 32; ++i) places.push_back(512 + 2 * i);
        return places;
      default: return {};
    }
  }

  std::vector<std::byte> bytes_;
  std::vector<float> scales_;
  WeightView view_;
};

inline std::size_t pick_cols(DType dtype, Random& random) {
  if (is_panel_format(dtype)) return random.pick(1, 700);
  return block_elements(dtype) * random.pick(1, 1024 / block_elements(dtype));
}

// What the formula in quantised_ops.h says, one output of one row at a time. segment: inputs after which a new sum
// begins, a multiple of 32; the sums are added up in their order.
inline float by_formula(const WeightView& weight, std::size_t out, const float* in, const float* bias,
                        std::size_t segment = SIZE_MAX) {
  const DType dtype = weight.dtype;
  const bool per_row = dtype == DType::kInt8;
  const std::size_t input_block = per_row ? weight.cols : 32;
  const std::size_t grain = dtype == DType::kQ6_K ? 16 : input_block;
  // Quants are whole numbers: what a row stands for, its scales being one.
  std::vector<float> values(weight.cols);
  dequantize_row(weight, out, values.data());
  SpreadBlock spread;
  float acc = 0, total = 0;
  std::vector<int> quants(weight.cols);
  for (std::size_t first = 0; first < weight.cols; first += input_block) {
    const std::size_t end = std::min(weight.cols, first + input_block);
    if (first != 0 && first % segment == 0) {
      total += acc;
      acc = 0;
    }
    float largest = 0;
    for (std::size_t i = first; i < end; ++i) largest = std::max(largest, std::abs(in[i]));
    const float steps = largest > 1e-35f ? 127.0f / largest : 0;
    const float in_scale = steps == 0 ? 0 : largest / 127;
    for (std::size_t i = first; i < end; ++i) quants[i] = static_cast<int>(std::nearbyint(in[i] * steps));
    for (std::size_t sub = first; sub < end; sub += grain) {
      const std::size_t sub_end = std::min(end, sub + grain);
      float weight_scale = 0, weight_min = 0;
      std::int64_t dot = 0, sum = 0;
      const auto* panel = static_cast<const std::byte*>(weight.data) +
                          out / kPanelOuts * row_bytes(dtype, weight.row_stride) +
                          sub / kChunkInputs * block_bytes(dtype);
      if (is_block_format(dtype)) {
        const auto* row = static_cast<const std::byte*>(weight.data) + out * row_bytes(dtype, weight.row_stride);
        spread_block(dtype, row + sub / block_elements(dtype) * block_bytes(dtype), spread);
        const std::size_t scale = sub % block_elements(dtype) / scale_elements(dtype);
        weight_scale = f32_of_f16(spread.d) * spread.scales[scale];
        if (dtype == DType::kQ4_K || dtype == DType::kQ5_K) weight_min = f32_of_f16(spread.dmin) * spread.mins[scale];
      } else if (dtype == DType::kInt8) {
        weight_scale = weight.scales[out];
      } else {
        weight_scale = load_as_f32(panel + 512, DType::kF16, sub % kChunkInputs / 32 * 16 + out % 16);
      }
      for (std::size_t i = sub; i < sub_end; ++i) {
        int quant;
        if (is_block_format(dtype)) {
          quant = spread.quants[i % block_elements(dtype)] - quant_offset(dtype);
        } else {
          quant = weight_scale == 0 ? 0 : static_cast<int>(std::nearbyint(values[i] / weight_scale));
        }
        dot += quant * quants[i];
        sum += quants[i];
      }
      const float both = weight_scale * in_scale;
      if (per_row) return std::fma(static_cast<float>(dot), both, bias != nullptr ? bias[out] : 0.0f);
      acc = std::fma(static_cast<float>(dot), both, acc);
      if (dtype == DType::kQ4_K || dtype == DType::kQ5_K) {
        acc = std::fma(weight_min, -(in_scale * static_cast<float>(sum)), acc);
      }
    }
  }
  return total + acc + (bias != nullptr ? bias[out] : 0.0f);
}

}  // namespace troupe::kernels
