#pragma once

#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/text/jinja/syntax.h"

namespace troupe::text::jinja {

// The statements of a template.
// Errors, with the line: kCorruptData for what is no Jinja, kUnsupported for what this Jinja lacks (template
// inheritance, includes and imports, call blocks, recursive loops, unknown filters and tests), kResourceExhausted
// beyond kMaxSyntaxDepth.
Result<std::vector<Statement>> parse_statements(std::string_view source);

}  // namespace troupe::text::jinja
