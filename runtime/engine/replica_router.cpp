#include "runtime/engine/replica_router.h"

#include <algorithm>
#include <boost/container_hash/hash.hpp>
#include <cassert>
#include <iterator>
#include <numeric>

#include "runtime/base/philox.h"

namespace troupe::engine {

ReplicaRouter::ReplicaRouter(const ReplicaRouterOptions& options) : options_(options) {
  assert(options.block_size > 0);
}

void ReplicaRouter::add(std::uint32_t replica) {
  Replica& added = replicas_[replica];
  added = Replica();
  added.life = ++lives_;
}

void ReplicaRouter::remove(std::uint32_t replica) { replicas_.erase(replica); }

std::optional<ReplicaRouter::Route> ReplicaRouter::choose(std::span<const Tokens> prompts, std::string_view salt,
                                                          std::uint64_t streams) {
  if (replicas_.empty()) return std::nullopt;
  ++turns_;
  std::vector<std::vector<BlockHash>> hashes;
  for (const Tokens prompt : prompts) hashes.push_back(hashes_of(prompt, salt));
  const std::uint64_t tokens = std::accumulate(prompts.begin(), prompts.end(), std::uint64_t{0},
                                               [](std::uint64_t sum, Tokens prompt) { return sum + prompt.size(); });

  std::optional<std::uint32_t> best;
  std::uint64_t best_cached = 0, best_cost = 0;
  for (const std::uint32_t number : candidates(hashes)) {
    const Replica& replica = replicas_.at(number);
    const std::uint64_t cached = cached_tokens(replica, hashes);
    const std::uint64_t left = tokens - cached;
    const std::uint64_t cost = options_.policy == ReplicaRouterOptions::Policy::kRoundRobin
                                   ? 0
                                   : replica.load + left + displaced_tokens(replica, left) / 2;
    // Among equals the one that has rested longest.
    if (!best || cost < best_cost || (cost == best_cost && replica.last_turn < replicas_.at(*best).last_turn)) {
      best = number;
      best_cached = cached;
      best_cost = cost;
    }
  }
  Replica& chosen = replicas_.at(*best);
  const Route route{
      .replica = *best, .life = chosen.life, .cached_tokens = best_cached, .prefill_tokens = tokens - best_cached};
  chosen.load += route.prefill_tokens + streams * kStreamTokens;
  chosen.last_turn = turns_;
  for (const auto& prompt : hashes) remember(chosen, prompt);
  return route;
}

void ReplicaRouter::prefilled(const Route& route) {
  if (Replica* replica = find(route)) replica->load -= route.prefill_tokens;
}

void ReplicaRouter::ended(const Route& route, std::uint64_t streams) {
  if (Replica* replica = find(route)) replica->load -= streams * kStreamTokens;
}

ReplicaRouter::Replica* ReplicaRouter::find(const Route& route) {
  const auto found = replicas_.find(route.replica);
  return found != replicas_.end() && found->second.life == route.life ? &found->second : nullptr;
}

// Of its full blocks that leave at least one token, whose logits are wanted.
std::vector<ReplicaRouter::BlockHash> ReplicaRouter::hashes_of(Tokens prompt, std::string_view salt) const {
  std::vector<BlockHash> hashes;
  if (options_.policy == ReplicaRouterOptions::Policy::kRoundRobin || prompt.empty()) return hashes;
  std::size_t hash = boost::hash_range(salt.begin(), salt.end());
  const std::size_t full = (prompt.size() - 1) / options_.block_size;
  hashes.reserve(full);
  for (std::size_t block = 0; block < full; ++block) {
    const Tokens tokens = prompt.subspan(block * options_.block_size, options_.block_size);
    boost::hash_range(hash, tokens.begin(), tokens.end());
    hashes.push_back(hash);
  }
  return hashes;
}

std::vector<std::uint32_t> ReplicaRouter::candidates(std::span<const std::vector<BlockHash>> prompts) {
  std::vector<std::uint32_t> all;
  for (const auto& [number, replica] : replicas_) all.push_back(number);
  if (all.size() <= 3 || options_.policy == ReplicaRouterOptions::Policy::kRoundRobin) return all;

  const auto knows_most = std::max_element(all.begin(), all.end(), [&](std::uint32_t a, std::uint32_t b) {
    return cached_tokens(replicas_.at(a), prompts) < cached_tokens(replicas_.at(b), prompts);
  });
  std::swap(all[0], *knows_most);
  const auto draw =
      philox4x32({static_cast<std::uint32_t>(turns_), static_cast<std::uint32_t>(turns_ >> 32), 0, 0},
                 {static_cast<std::uint32_t>(options_.seed), static_cast<std::uint32_t>(options_.seed >> 32)});
  for (std::size_t i = 1; i <= 2; ++i) std::swap(all[i], all[i + draw[i] % (all.size() - i)]);
  all.resize(3);
  return all;
}

std::uint64_t ReplicaRouter::cached_tokens(const Replica& replica,
                                           std::span<const std::vector<BlockHash>> prompts) const {
  std::uint64_t blocks = 0;
  for (const auto& hashes : prompts) {
    const auto unknown =
        std::find_if(hashes.begin(), hashes.end(), [&](BlockHash hash) { return !replica.blocks.contains(hash); });
    blocks += static_cast<std::uint64_t>(unknown - hashes.begin());
  }
  return blocks * options_.block_size;
}

std::uint64_t ReplicaRouter::displaced_tokens(const Replica& replica, std::uint64_t new_tokens) const {
  const std::uint64_t capacity = std::uint64_t{options_.num_blocks} * options_.block_size;
  const std::uint64_t wanted = replica.recent.size() * options_.block_size + new_tokens;
  return wanted > capacity ? std::min(wanted - capacity, new_tokens) : 0;
}

// The first block last: a chain is forgotten from its end, as the prefix cache does.
void ReplicaRouter::remember(Replica& replica, const std::vector<BlockHash>& hashes) const {
  for (auto hash = hashes.rbegin(); hash != hashes.rend(); ++hash) {
    const auto known = replica.blocks.find(*hash);
    if (known != replica.blocks.end()) {
      replica.recent.splice(replica.recent.begin(), replica.recent, known->second);
      continue;
    }
    replica.recent.push_front(*hash);
    replica.blocks.emplace(*hash, replica.recent.begin());
  }
  while (replica.recent.size() > options_.num_blocks) {
    replica.blocks.erase(replica.recent.back());
    replica.recent.pop_back();
  }
}

}  // namespace troupe::engine
