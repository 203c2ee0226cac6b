#pragma once

#include <cstddef>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/text/json_node.h"
#include "runtime/text/regex.h"

namespace troupe::text {

// What becomes of the delimiters that a pre-tokeniser splits at.
enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };

// By its name in tokenizer.json.
Result<SplitBehavior> parse_split_behavior(const JsonNode& node);

// The pieces of a text of `bytes` bytes whose delimiters are `delimiters` (in order, not overlapping). With `invert`
// the text between them is the delimiters. No piece is empty.
std::vector<Span> split_at(std::size_t bytes, const std::vector<Span>& delimiters, SplitBehavior behavior, bool invert);

}  // namespace troupe::text
