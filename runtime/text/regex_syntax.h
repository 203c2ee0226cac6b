#pragma once

#include <string>
#include <string_view>

#include "runtime/base/result.h"

namespace troupe::text {

// Rewrites a pattern in the syntax that tokenizer.json is written in (Oniguruma's, where ^ and $ are line anchors, \h
// is a hexadecimal digit, \s is White_Space, \w is L, M, N and Pc, (?m) lets the dot match newlines and {n,m}+ repeats)
// as one that means the same to PCRE2 with UTF, UCP and MULTILINE. kUnsupported for what PCRE2 cannot say: class
// intersections and nested classes.
Result<std::string> to_pcre_syntax(std::string_view pattern);

}  // namespace troupe::text
