#include "cluster/bench/block_reuse.h"

#include <algorithm>

namespace troupe::cluster {

std::uint64_t BlockReuse::add(std::span<const std::uint64_t> blocks, std::uint64_t prompt_tokens,
                              std::uint32_t block_tokens) {
  const std::uint64_t full = std::min<std::uint64_t>(blocks.size(), prompt_tokens / block_tokens);
  std::uint64_t found = 0;
  while (found < full && seen_.contains(blocks[found])) ++found;
  // A block that is not full here cannot be found by a later prompt either, unless that one fills it: then it counts
  // from that prompt on.
  seen_.insert(blocks.begin(), blocks.begin() + static_cast<std::ptrdiff_t>(full));
  const std::uint64_t tokens = found * block_tokens;
  return tokens > 0 && tokens == prompt_tokens ? tokens - block_tokens : tokens;
}

}  // namespace troupe::cluster
