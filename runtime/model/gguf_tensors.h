#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "kernels/tensor.h"
#include "runtime/base/result.h"
#include "runtime/model/gguf.h"
#include "runtime/model/slice.h"

namespace troupe::model {

// What a GGUF file calls a tensor of tensor_slices: "blk.3.attn_q.weight". The table that stands for a missing
// lm_head has a name of its own: see `tied`. The experts of a layer are one tensor, the experts outermost.
std::string gguf_name(TensorRole role, std::uint32_t layer, bool tied);

// The same where every expert is a tensor of its own, as converters wrote Mixtral until April 2024:
// "blk.3.ffn_gate.7.weight". REQUIRES: is_of_an_expert(role)
std::string gguf_expert_name(TensorRole role, std::uint32_t layer, std::uint32_t expert);

// A tensor of tensor_slices where a file has it.
struct GgufPart {
  const GgufTensor* tensor = nullptr;  // all experts, perhaps
  std::span<const std::uint64_t> shape;
  std::span<const std::byte> bytes;
  std::string place;  // "FILE: tensor 'NAME' at offset N", and which expert
};

// Errors (kCorruptData) name the file and the tensor that is missing or has no such expert. The shape is not checked,
// but a part of a tensor that holds all experts lies within it whatever that is.
Result<GgufPart> find_gguf_part(const GgufFile& file, const TensorSlice& slice);

// What the kernels get for a type of ggml, or nothing for those that they do not compute with.
std::optional<kernels::DType> dtype_of(const GgmlType& type);
inline constexpr std::string_view kReadableGgmlTypes = "F32, F16, BF16, Q8_0, Q4_0, Q5_0, Q4_K, Q5_K, Q6_K";

// Of the part, or an error (kUnsupported) that says what to do.
Result<kernels::DType> usable_type(const GgufPart& part);

}  // namespace troupe::model
