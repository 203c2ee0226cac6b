#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"

namespace troupe::text::jinja {

struct Token {
  enum class Kind {
    kText,         // between tags: `text`
    kOutputBegin,  // {{
    kOutputEnd,    // }}
    kBlockBegin,   // {%
    kBlockEnd,     // %}
    kName,
    kString,   // `text`: its value
    kInteger,  // `text`: its digits
    kFloat,    // `text`: as it is written
    kOperator,
    kEnd,
  };

  Kind kind = Kind::kEnd;
  std::string text;
  std::uint32_t line = 0;  // from 1

  bool is(Kind other, std::string_view word) const { return kind == other && text == word; }
};

// The tokens of a template, as Jinja2 3.1 divides it with trim_blocks and lstrip_blocks, which is what chat templates
// are written for; the last one is kEnd. Comments and {% raw %} are resolved.
// Errors: kCorruptData with the line, for a tag or string that does not end, or a character that belongs to nothing.
Result<std::vector<Token>> tokens_of(std::string_view source);

}  // namespace troupe::text::jinja
