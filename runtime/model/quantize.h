#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/model/quant_format.h"

namespace troupe::model {

struct QuantizeReport {
  std::uint64_t bytes_before = 0;  // of the weights, as the model stores them
  std::uint64_t bytes_after = 0;
};

// Told after every tensor: its name, and bytes read so far and in all.
using QuantizeProgress =
    std::function<void(const std::string& tensor, std::uint64_t bytes_read, std::uint64_t bytes_total)>;

// Writes a Hugging Face directory of float weights anew in `out`, which is made: model.safetensors in the layout of
// kernels/quant.h, config.json with the entry that load_config knows, and copies of the tokenizer's files. Reads and
// writes in pieces; holds no whole matrix. `out` gets its config.json last: without it, it is no model.
// Errors: kInvalidArgument for a GGUF file, a model that is quantised already, an `out` that is not empty; of the
// config and the checkpoint; kCorruptData naming the tensor for weights that are not finite.
Result<QuantizeReport> quantize_model(const std::filesystem::path& model, const std::filesystem::path& out,
                                      QuantFormat format, const QuantizeProgress& progress = {},
                                      const Limits& limits = {});

}  // namespace troupe::model
