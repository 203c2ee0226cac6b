#include "actors/names.h"

#include <charconv>

namespace troupe {

std::optional<std::uint32_t> replica_of(std::string_view actor) {
  for (const std::string_view kind : {"scheduler/", "draft/", "stage/", "shard/", "expert/"}) {
    if (!actor.starts_with(kind)) continue;
    const char* const end = actor.data() + actor.size();
    std::uint32_t replica = 0;
    const auto parsed = std::from_chars(actor.data() + kind.size(), end, replica);
    if (parsed.ec == std::errc() && (parsed.ptr == end || *parsed.ptr == '/')) return replica;
  }
  return std::nullopt;
}

}  // namespace troupe
