#pragma once

#include <initializer_list>
#include <string>
#include <string_view>

#include "runtime/base/result.h"
#include "runtime/model/config.h"
#include "tests/runtime/model/gguf_writer.h"
#include "tests/runtime/model/tiny_model.h"

namespace troupe::model::testing {

// The metadata that llama.cpp's converter writes for a config, without a tokenizer.
GgufWriter gguf_metadata(const ModelConfig& config, const std::string& architecture);

// The same with the tensors in F32 under their GGUF names; rows of q and k are permuted as the converter does for the
// architectures whose rotary layout is interleaved. The experts of a layer are one tensor, or each is one by itself;
// the shared expert's router is a matrix of one row.
GgufWriter gguf_model(const ModelConfig& config, const std::string& architecture, const TinyTensors& tensors,
                      bool experts_apart = false);

// The config that a file of these contents, "m.gguf", has.
Result<ModelConfig> config_of(const GgufWriter& writer);

// It has none: the message begins with "m.gguf" and has all of `hints`.
void check_refused(const GgufWriter& writer, ErrorCode code, std::initializer_list<std::string_view> hints);

// The file computes what the formulas make of the original weights, in stages and ranks.
void check_forward(const GgufWriter& writer, const ModelConfig& original, const TinyTensors& tensors);

}  // namespace troupe::model::testing
