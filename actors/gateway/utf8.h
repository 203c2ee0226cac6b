#pragma once

#include <cstddef>
#include <string_view>

namespace troupe {

// Whether `bytes` is well-formed UTF-8 (RFC 3629: shortest forms, no surrogates, at most U+10FFFF).
bool is_utf8(std::string_view bytes);

// Characters that begin in `bytes`, which may start or end inside one.
std::size_t utf8_characters(std::string_view bytes);

}  // namespace troupe
