#pragma once

#include <cstdint>
#include <span>
#include <unordered_set>

namespace troupe::cluster {

// How much of the prompts of a trace came up in earlier ones: what a prefix cache that forgets nothing would find.
class BlockReuse {
 public:
  // The tokens of this prompt's leading full blocks that stood in a prompt added before. At least one token of a prompt
  // must be computed, so that never all of them count.
  std::uint64_t add(std::span<const std::uint64_t> blocks, std::uint64_t prompt_tokens, std::uint32_t block_tokens);

 private:
  std::unordered_set<std::uint64_t> seen_;
};

}  // namespace troupe::cluster
