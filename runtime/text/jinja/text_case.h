#pragma once

#include <string>
#include <string_view>

namespace troupe::text::jinja {

// Of UTF-8 text, character by character (the simple mappings of Unicode).
std::string upper(std::string_view text);
std::string lower(std::string_view text);
// The first character in upper case, the others in lower case; titled: of each word.
std::string capitalized(std::string_view text);
std::string titled(std::string_view text);

// General categories L*.
bool is_letter(char32_t code_point);

}  // namespace troupe::text::jinja
