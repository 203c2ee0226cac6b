#include "runtime/text/jinja/text_case.h"

#include <utf8proc.h>

#include <utility>

#include "runtime/text/utf8.h"

namespace troupe::text::jinja {
namespace {

template <class Mapping>
std::string mapped(std::string_view text, const Mapping& mapping) {
  std::string out;
  for (std::size_t at = 0; at < text.size();) {
    const Character character = character_at(text, at);
    append_utf8(out, static_cast<char32_t>(mapping(static_cast<utf8proc_int32_t>(character.code_point))));
    at += character.bytes;
  }
  return out;
}

}  // namespace

std::string upper(std::string_view text) { return mapped(text, utf8proc_toupper); }
std::string lower(std::string_view text) { return mapped(text, utf8proc_tolower); }

std::string capitalized(std::string_view text) {
  bool first = true;
  return mapped(text, [&](utf8proc_int32_t code) {
    return std::exchange(first, false) ? utf8proc_toupper(code) : utf8proc_tolower(code);
  });
}

std::string titled(std::string_view text) {
  bool within = false;
  return mapped(text, [&](utf8proc_int32_t code) {
    const bool begins = !within;
    within = is_letter(static_cast<char32_t>(code));
    return begins ? utf8proc_toupper(code) : utf8proc_tolower(code);
  });
}

bool is_letter(char32_t code_point) {
  const utf8proc_category_t category = utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
  return category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_LO;
}

}  // namespace troupe::text::jinja
