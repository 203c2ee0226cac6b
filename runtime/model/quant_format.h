#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "kernels/tensor.h"
#include "runtime/model/slice.h"

namespace troupe::model {

// What `troupe quantize --format` makes of a model. Norms and biases stay as they are.
enum class QuantFormat : std::uint8_t {
  kQ8,  // every matrix but the routers as kInt8
  kQ4,  // those of the layers as kInt4; the table and lm_head, which suffer most, as kInt8
};

// In quantization_config of config.json: {"quant_method": kQuantMethod, "format": "q8" or "q4"}.
inline constexpr std::string_view kQuantMethod = "troupe";

constexpr std::string_view to_string(QuantFormat format) { return format == QuantFormat::kQ8 ? "q8" : "q4"; }

constexpr std::optional<QuantFormat> parse_quant_format(std::string_view name) {
  for (const QuantFormat format : {QuantFormat::kQ8, QuantFormat::kQ4}) {
    if (name == to_string(format)) return format;
  }
  return std::nullopt;
}

// How a matrix of that role is stored. Routers are small, and what they choose is all or nothing: they stay exact.
constexpr kernels::DType quantised_type(QuantFormat format, TensorRole role) {
  if (role == TensorRole::kRouter) return kernels::DType::kF32;
  const bool is_table = role == TensorRole::kEmbedding || role == TensorRole::kLmHead;
  return format == QuantFormat::kQ4 && !is_table ? kernels::DType::kInt4 : kernels::DType::kInt8;
}

}  // namespace troupe::model
