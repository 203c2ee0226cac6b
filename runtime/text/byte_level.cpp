#include "runtime/text/byte_level.h"

#include <array>

#include "runtime/text/utf8.h"

namespace troupe::text {
namespace {

// Printable Latin-1 bytes stand for themselves, the others for 256, 257, ... in order.
struct Alphabet {
  std::array<std::string, 256> spelling;
  std::array<int, 512> byte_of;  // -1: not in the alphabet

  Alphabet() {
    byte_of.fill(-1);
    char32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable =
          (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
      const char32_t code_point = printable ? static_cast<char32_t>(byte) : next++;
      append_utf8(spelling[byte], code_point);
      byte_of[code_point] = byte;
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

std::string to_byte_level(std::string_view bytes) {
  const Alphabet& letters = alphabet();
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char c : bytes) out += letters.spelling[static_cast<unsigned char>(c)];
  return out;
}

std::optional<std::string> from_byte_level(std::string_view token) {
  const Alphabet& letters = alphabet();
  std::string out;
  for (std::size_t at = 0; at < token.size();) {
    const Character character = character_at(token, at);
    if (character.code_point >= letters.byte_of.size()) return std::nullopt;
    const int byte = letters.byte_of[character.code_point];
    if (byte < 0) return std::nullopt;
    out += static_cast<char>(byte);
    at += character.bytes;
  }
  return out;
}

}  // namespace troupe::text
