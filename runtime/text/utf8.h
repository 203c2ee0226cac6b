#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace troupe::text {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

// One character of a UTF-8 string.
struct Character {
  char32_t code_point = 0;
  std::size_t bytes = 0;
};

// The character at `offset`. REQUIRES: `text` is UTF-8 and a character begins at `offset`.
Character character_at(std::string_view text, std::size_t offset);

// Offset of the first byte that is not part of a UTF-8 character (Unicode 15, table 3-7); nullopt when all are.
std::optional<std::size_t> invalid_utf8_offset(std::string_view text);

void append_utf8(std::string& out, char32_t code_point);

// Appends `bytes`, with every maximal part of a broken character as one U+FFFD (Unicode 15, section 3.9), and returns
// how many bytes at the end were left out because they may be the beginning of a character.
std::size_t append_lossy(std::string& out, std::string_view bytes);

// The property White_Space.
bool is_whitespace(char32_t code_point);

// General categories Nd, Nl and No.
bool is_numeric(char32_t code_point);

// ASCII punctuation and symbols, and the general categories P*.
bool is_punctuation(char32_t code_point);

// General categories M*.
bool is_mark(char32_t code_point);

// Letters, marks, decimal digits, connector punctuation and joiners: \w of Unicode TS 18.
bool is_word(char32_t code_point);

}  // namespace troupe::text
