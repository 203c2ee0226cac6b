#include "runtime/text/utf8.h"

#include <utf8proc.h>

#include <cassert>

namespace troupe::text {
namespace {

// Bytes of the character at the front of `bytes`, or why there is none.
struct Front {
  std::size_t bytes;  // of the character, or of the maximal broken part
  bool valid;
  bool cut;  // the end of `bytes` came before the end of a character
};

// Unicode 15, table 3-7: which second byte may follow a first one.
struct SecondByte {
  unsigned char low;
  unsigned char high;
};

SecondByte second_byte_of(unsigned char first) {
  switch (first) {
    case 0xE0: return {0xA0, 0xBF};
    case 0xED: return {0x80, 0x9F};
    case 0xF0: return {0x90, 0xBF};
    case 0xF4: return {0x80, 0x8F};
    default: return {0x80, 0xBF};
  }
}

Front front_of(std::string_view bytes) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char first = byte(0);
  if (first < 0x80) return {1, true, false};
  if (first < 0xC2 || first > 0xF4) return {1, false, false};
  const std::size_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  for (std::size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {i, false, true};
    const SecondByte range = i == 1 ? second_byte_of(first) : SecondByte{0x80, 0xBF};
    if (byte(i) < range.low || byte(i) > range.high) return {i, false, false};
  }
  return {length, true, false};
}

utf8proc_category_t category_of(char32_t code_point) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(code_point));
}

}  // namespace

Character character_at(std::string_view text, std::size_t offset) {
  assert(offset < text.size());
  const auto byte = [&](std::size_t i) -> char32_t { return static_cast<unsigned char>(text[offset + i]); };
  const char32_t first = byte(0);
  if (first < 0x80) return {first, 1};
  if (first < 0xE0) return {(first & 0x1F) << 6 | (byte(1) & 0x3F), 2};
  if (first < 0xF0) return {(first & 0x0F) << 12 | (byte(1) & 0x3F) << 6 | (byte(2) & 0x3F), 3};
  return {(first & 0x07) << 18 | (byte(1) & 0x3F) << 12 | (byte(2) & 0x3F) << 6 | (byte(3) & 0x3F), 4};
}

std::optional<std::size_t> invalid_utf8_offset(std::string_view text) {
  for (std::size_t offset = 0; offset < text.size();) {
    const Front front = front_of(text.substr(offset));
    if (!front.valid) return offset;
    offset += front.bytes;
  }
  return std::nullopt;
}

void append_utf8(std::string& out, char32_t code_point) {
  utf8proc_uint8_t bytes[4];
  const auto count = utf8proc_encode_char(static_cast<utf8proc_int32_t>(code_point), bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<std::size_t>(count));
}

std::size_t append_lossy(std::string& out, std::string_view bytes) {
  std::size_t offset = 0;
  while (offset < bytes.size()) {
    const Front front = front_of(bytes.substr(offset));
    if (front.cut) return bytes.size() - offset;
    out += front.valid ? bytes.substr(offset, front.bytes) : kReplacementCharacter;
    offset += front.bytes;
  }
  return 0;
}

bool is_whitespace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

bool is_numeric(char32_t code_point) {
  const auto category = category_of(code_point);
  return category == UTF8PROC_CATEGORY_ND || category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_NO;
}

bool is_punctuation(char32_t c) {
  if (c < 0x80)
    return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
  const auto category = category_of(c);
  return category >= UTF8PROC_CATEGORY_PC && category <= UTF8PROC_CATEGORY_PO;
}

bool is_mark(char32_t code_point) {
  const auto category = category_of(code_point);
  return category >= UTF8PROC_CATEGORY_MN && category <= UTF8PROC_CATEGORY_ME;
}

bool is_word(char32_t c) {
  const auto category = category_of(c);
  // Other_Alphabetic beyond letters and marks: letter numbers and the circled and squared Latin letters.
  const bool enclosed_letter = (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
                               (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
  return (category >= UTF8PROC_CATEGORY_LU && category <= UTF8PROC_CATEGORY_ME) || category == UTF8PROC_CATEGORY_ND ||
         category == UTF8PROC_CATEGORY_NL || category == UTF8PROC_CATEGORY_PC || c == 0x200C || c == 0x200D ||
         enclosed_letter;
}

}  // namespace troupe::text
