#pragma once

#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/model/gguf.h"
#include "runtime/text/vocabulary.h"

namespace troupe {

// The tokenizer in the metadata of a GGUF file, which outlives it. kNotFound when the file has none: such a model is
// served with token-id prompts.
Result<text::Vocabulary> read_vocabulary(const model::GgufFile& file, const Limits& limits);

}  // namespace troupe
