#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace troupe::text {

// The byte-level alphabet of GPT-2: each byte is written as one printable character, so that any text is made of
// 256 characters.

// `bytes` written in that alphabet.
std::string to_byte_level(std::string_view bytes);

// The bytes that `token` stands for; nullopt when it has a character outside the alphabet.
std::optional<std::string> from_byte_level(std::string_view token);

}  // namespace troupe::text
