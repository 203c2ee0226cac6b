#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "kernels/tensor.h"
#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/model/config.h"
#include "runtime/model/gguf.h"
#include "runtime/model/slice.h"

namespace troupe::model {

// The config in the metadata of a GGUF file as llama.cpp writes it: architectures llama (Llama and Mistral), mistral3,
// qwen2 and qwen3. Every tensor of the file must be one that the forward pass uses, of a type it can read.
// Errors name the file and the key or tensor: kCorruptData for what is missing or out of range, kUnsupported for
// architectures, options, tensors and types that this code does not compute exactly.
Result<ModelConfig> gguf_config(const GgufFile& file, const Limits& limits = {});

// The same of a file.
Result<ModelConfig> load_gguf_config(const std::filesystem::path& path, const Limits& limits = {});

// What a GGUF file calls a tensor of tensor_slices: "blk.3.attn_q.weight". The table that stands for a missing
// lm_head has a name of its own: see `tied`.
std::string gguf_name(TensorRole role, std::uint32_t layer, bool tied);

// What the kernels get for a type of ggml, or nothing for those that they do not compute with.
std::optional<kernels::DType> dtype_of(const GgmlType& type);
inline constexpr std::string_view kReadableGgmlTypes = "F32, F16, BF16, Q8_0, Q4_0, Q5_0, Q4_K, Q5_K, Q6_K";

}  // namespace troupe::model
