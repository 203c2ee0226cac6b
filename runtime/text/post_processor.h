#pragma once

#include <cstdint>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/text/json_node.h"

namespace troupe::text {

// The special tokens around a single text, which is all that the `post_processor` of tokenizer.json changes in ids.
struct PostProcessor {
  std::vector<std::uint32_t> before;
  std::vector<std::uint32_t> after;

  // Sequence, TemplateProcessing, ByteLevel, RobertaProcessing, BertProcessing; kUnsupported for others.
  static Result<PostProcessor> parse(const JsonNode& node, const Limits& limits);
};

}  // namespace troupe::text
