#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace troupe::engine {

struct ReplicaRouterOptions {
  enum class Policy { kPrefix, kRoundRobin };

  Policy policy = Policy::kPrefix;
  std::uint32_t block_size = 16;  // tokens of a KV block, >= 1
  std::uint32_t num_blocks = 0;   // KV blocks of a replica: what it can remember of prompts
  std::uint64_t seed = 0;         // of the draw among many replicas
};

// Which replica answers a request. With kPrefix: where the least is left to compute, counted in tokens of prompts. That
// is what the request's own prompts have beyond the prefix that the replica should still have in its KV pages, what the
// replica has to do before (prompts without a first token yet, and streams, each worth kStreamTokens), and half of what
// the prompts would displace in its pages: somebody may ask for that again. So a few tokens that all prompts share do
// not draw everything to one replica while another one's pages are empty.
// Among more than three replicas those two that are drawn (the power of two choices: Mitzenmacher 2001) and the one
// with the longest prefix are compared: load is known late, and all would run to the same least loaded one.
//
// What a replica has in its pages is guessed from what was sent there, newest blocks first. A wrong guess costs time,
// never an answer. Deterministic; used by one thread.
class ReplicaRouter {
 public:
  // Tokens of prompts that take about as long to compute as the part of a running stream that lies ahead.
  static constexpr std::uint64_t kStreamTokens = 64;

  explicit ReplicaRouter(const ReplicaRouterOptions& options);

  // The replica is there from now on, with nothing to do and empty pages.
  void add(std::uint32_t replica);
  void remove(std::uint32_t replica);
  bool empty() const { return replicas_.empty(); }

  // Where a request went; handed back as it gets on.
  struct Route {
    std::uint32_t replica = 0;
    std::uint64_t life = 0;            // which life of that replica
    std::uint64_t cached_tokens = 0;   // of the prompts, expected in its pages
    std::uint64_t prefill_tokens = 0;  // the rest of them
  };

  using Tokens = std::span<const std::uint32_t>;

  // The route of a request with these prompts and so many answers in all. Nothing when no replica is there.
  std::optional<Route> choose(std::span<const Tokens> prompts, std::string_view salt, std::uint64_t streams);

  void prefilled(const Route& route);                     // its first token is there; once a route
  void ended(const Route& route, std::uint64_t streams);  // so many of its answers are complete or given up

 private:
  using BlockHash = std::uint64_t;  // of a block and all before it

  struct Replica {
    std::uint64_t life = 0;
    std::uint64_t load = 0;       // tokens
    std::uint64_t last_turn = 0;  // when it was chosen last
    std::list<BlockHash> recent;  // most recently used first, at most num_blocks
    std::unordered_map<BlockHash, std::list<BlockHash>::iterator> blocks;
  };

  std::vector<BlockHash> hashes_of(Tokens prompt, std::string_view salt) const;
  std::vector<std::uint32_t> candidates(std::span<const std::vector<BlockHash>> prompts);
  std::uint64_t cached_tokens(const Replica& replica, std::span<const std::vector<BlockHash>> prompts) const;
  std::uint64_t displaced_tokens(const Replica& replica, std::uint64_t new_tokens) const;
  void remember(Replica& replica, const std::vector<BlockHash>& hashes) const;
  Replica* find(const Route& route);

  const ReplicaRouterOptions options_;
  std::map<std::uint32_t, Replica> replicas_;
  std::uint64_t lives_ = 0;
  std::uint64_t turns_ = 0;
};

}  // namespace troupe::engine
