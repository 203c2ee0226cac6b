#include "runtime/engine/replica_router.h"

#include <boost/test/unit_test.hpp>
#include <map>
#include <numeric>
#include <vector>

namespace troupe::engine {

BOOST_AUTO_TEST_SUITE(replica_router)

namespace {

using Policy = ReplicaRouterOptions::Policy;
using Prompt = std::vector<std::uint32_t>;

constexpr std::uint32_t kBlock = 4;

ReplicaRouter router_of(std::uint32_t replicas, Policy policy = Policy::kPrefix, std::uint32_t num_blocks = 1000) {
  ReplicaRouter router({.policy = policy, .block_size = kBlock, .num_blocks = num_blocks, .seed = 7});
  for (std::uint32_t replica = 0; replica < replicas; ++replica) router.add(replica);
  return router;
}

// `group` tells beginnings apart, `own` the rest.
Prompt prompt_of(std::uint32_t group, std::uint32_t own, std::size_t shared = 400, std::size_t rest = 8) {
  Prompt prompt(shared, group);
  prompt.resize(shared + rest, 1000 + own);
  return prompt;
}

ReplicaRouter::Route send(ReplicaRouter& router, const Prompt& prompt, std::string_view salt = "") {
  const ReplicaRouter::Tokens tokens(prompt);
  const auto route = router.choose({&tokens, 1}, salt, 1);
  BOOST_REQUIRE(route.has_value());
  return *route;
}

void finish(ReplicaRouter& router, const ReplicaRouter::Route& route) {
  router.prefilled(route);
  router.ended(route, 1);
}

}  // namespace

BOOST_AUTO_TEST_CASE(without_replicas_there_is_no_route) {
  ReplicaRouter router = router_of(0);
  BOOST_TEST(router.empty());
  BOOST_TEST(!router.choose({}, "", 1).has_value());
}

BOOST_AUTO_TEST_CASE(prompts_that_begin_alike_go_where_their_beginning_is) {
  ReplicaRouter router = router_of(2);
  std::map<std::uint32_t, std::uint32_t> home;
  for (std::uint32_t group = 0; group < 6; ++group) {
    const auto route = send(router, prompt_of(group, 0));
    BOOST_TEST(route.cached_tokens == 0u);
    BOOST_TEST(route.prefill_tokens == 408u);
    home[group] = route.replica;
    finish(router, route);
  }
  BOOST_TEST(std::accumulate(home.begin(), home.end(), 0u, [](auto sum, auto& g) { return sum + g.second; }) == 3u);
  for (std::uint32_t own = 1; own < 20; ++own) {
    const auto route = send(router, prompt_of(own % 6, own));
    BOOST_TEST(route.replica == home[own % 6]);
    BOOST_TEST(route.cached_tokens == 400u);
    BOOST_TEST(route.prefill_tokens == 8u);
    finish(router, route);
  }
}

BOOST_AUTO_TEST_CASE(a_long_queue_outweighs_a_cached_prefix) {
  ReplicaRouter router = router_of(2);
  const auto first = send(router, prompt_of(1, 0));
  finish(router, first);
  std::size_t stayed = 0;
  while (send(router, prompt_of(1, static_cast<std::uint32_t>(stayed))).replica == first.replica) ++stayed;
  // Each leaves a stream and its own 8 tokens to be computed: until that is more than the 400 shared ones.
  BOOST_TEST(stayed >= 400 / (ReplicaRouter::kStreamTokens + 8));
  BOOST_TEST(stayed <= 400 / (ReplicaRouter::kStreamTokens + 8) + 1);
}

BOOST_AUTO_TEST_CASE(other_salts_share_nothing_and_the_last_token_is_never_cached) {
  ReplicaRouter router = router_of(1);
  const Prompt whole(8, 5);
  finish(router, send(router, whole, "a"));
  BOOST_TEST(send(router, whole, "a").cached_tokens == 4u);
  BOOST_TEST(send(router, whole, "b").cached_tokens == 0u);
}

BOOST_AUTO_TEST_CASE(what_no_longer_fits_the_pages_is_forgotten_oldest_first) {
  ReplicaRouter router = router_of(1, Policy::kPrefix, 10);
  finish(router, send(router, prompt_of(1, 0, 24, 1)));  // 6 blocks
  finish(router, send(router, prompt_of(2, 0, 24, 1)));  // 6 more: 2 of the first are gone, its last ones
  BOOST_TEST(send(router, prompt_of(2, 1, 24, 1)).cached_tokens == 24u);
  BOOST_TEST(send(router, prompt_of(1, 1, 24, 1)).cached_tokens == 16u);
}

BOOST_AUTO_TEST_CASE(a_replica_that_comes_back_has_empty_pages_and_nothing_to_do) {
  ReplicaRouter router = router_of(2);
  const auto before = send(router, prompt_of(1, 0));
  router.remove(before.replica);
  const auto elsewhere = send(router, prompt_of(1, 1));
  BOOST_TEST(elsewhere.replica != before.replica);
  finish(router, elsewhere);
  router.add(before.replica);
  finish(router, before);  // of its earlier life: counts nothing
  BOOST_TEST(send(router, prompt_of(2, 0)).replica == before.replica);
  BOOST_TEST(send(router, prompt_of(1, 2)).cached_tokens == 400u);
}

BOOST_AUTO_TEST_CASE(full_pages_send_new_prompts_to_empty_ones_though_all_begin_with_a_few_alike) {
  ReplicaRouter router = router_of(2, Policy::kPrefix, 250);
  std::vector<std::uint32_t> homes;
  for (std::uint32_t group = 0; group < 4; ++group) {
    Prompt prompt(8, 999);
    const Prompt rest = prompt_of(group, 0);
    prompt.insert(prompt.end(), rest.begin(), rest.end());
    const auto route = send(router, prompt);
    homes.push_back(route.replica);
    finish(router, route);
  }
  BOOST_TEST(homes[1] == homes[0], "what they share is there, and there is room");
  BOOST_TEST(homes[2] != homes[0]);
  BOOST_TEST(homes[3] == homes[2]);
}

BOOST_AUTO_TEST_CASE(round_robin_takes_turns_whatever_is_asked) {
  ReplicaRouter router = router_of(3, Policy::kRoundRobin);
  for (std::uint32_t i = 0; i < 9; ++i) {
    const auto route = send(router, prompt_of(1, i));
    BOOST_TEST(route.replica == i % 3);
    BOOST_TEST(route.cached_tokens == 0u);
  }
}

BOOST_AUTO_TEST_CASE(many_replicas_share_prompts_that_have_nothing_in_common) {
  constexpr std::uint32_t kReplicas = 16, kRequests = 1600;
  ReplicaRouter router = router_of(kReplicas);
  std::map<std::uint32_t, std::uint32_t> requests;
  for (std::uint32_t i = 0; i < kRequests; ++i) ++requests[send(router, prompt_of(i, 0, 40)).replica];
  BOOST_TEST(requests.size() == kReplicas);
  for (const auto& [replica, count] : requests) {
    BOOST_TEST(count > kRequests / kReplicas * 9 / 10);
    BOOST_TEST(count < kRequests / kReplicas * 11 / 10);
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::engine
