#pragma once

#include <cstdint>
#include <string_view>

namespace troupe {

// FNV-1a with 64 bits (Fowler, Noll, Vo): tells contents apart that come about by chance, not those that somebody made
// up. `hash`: of what comes before.
constexpr std::uint64_t fnv1a(std::string_view bytes, std::uint64_t hash = 0xcbf29ce484222325) {
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
  return hash;
}

}  // namespace troupe
