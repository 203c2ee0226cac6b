#pragma once

#include <filesystem>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/model/config.h"
#include "runtime/model/gguf.h"

namespace troupe::model {

// The config in the metadata of a GGUF file as llama.cpp writes it: architectures llama (Llama, Mistral and Mixtral),
// mistral3, qwen2, qwen2moe, qwen3 and qwen3moe. Every tensor of the file must be one that the forward pass uses, of a
// type it can read. Errors name the file and the key or tensor: kCorruptData for what is missing or out of range,
// kUnsupported for architectures, options, tensors and types that this code does not compute exactly.
Result<ModelConfig> gguf_config(const GgufFile& file, const Limits& limits = {});

// The same of a file.
Result<ModelConfig> load_gguf_config(const std::filesystem::path& path, const Limits& limits = {});

}  // namespace troupe::model
