#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"

namespace troupe::text {

// One step of a Jinja source: a statement such as `if loop.first`, or a piece of output.
struct JinjaStep {
  enum class Kind { kStatement, kLiteral, kExpression };

  Kind kind;
  std::string text;

  bool operator==(const JinjaStep&) const = default;
};

// The steps of a Jinja source in a spelling of their own, so that sources which differ only in layout, quotes,
// subscripts (m['role'], m.role) or in how output is put together have the same outline. Whitespace follows
// trim_blocks and lstrip_blocks, as chat templates are written for. Nothing is evaluated.
// kCorruptData with the byte offset when a tag or a string does not end.
Result<std::vector<JinjaStep>> outline_jinja(std::string_view source);

}  // namespace troupe::text
