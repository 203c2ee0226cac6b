#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/text/json_node.h"
#include "runtime/text/regex.h"

namespace troupe::text {

// The `pattern` of a Split or Replace: {"String": "..."} or {"Regex": "..."}. Immutable, thread-safe.
class Pattern {
 public:
  static Result<Pattern> parse(const JsonNode& node);
  explicit Pattern(Regex regex) : regex_(std::move(regex)) {}

  // Non-overlapping matches from left to right. REQUIRES: `text` is UTF-8.
  Result<std::vector<Span>> find_all(std::string_view text) const;

  // `text` with each match replaced by `by`, which is taken literally.
  Result<std::string> replace_all(std::string_view text, std::string_view by) const;

 private:
  explicit Pattern(std::string text) : text_(std::move(text)) {}

  std::optional<Regex> regex_;
  std::string text_;  // never empty when there is no regex_
};

}  // namespace troupe::text
