#include "runtime/engine/ngram_proposer.h"

#include <boost/test/unit_test.hpp>
#include <numeric>

#include "runtime/base/philox.h"

using namespace troupe;
using namespace troupe::engine;

namespace {

using Tokens = std::vector<std::uint32_t>;

Tokens random_tokens(std::uint32_t count, std::uint32_t kinds, std::uint64_t seed) {
  Tokens tokens(count);
  for (std::uint32_t i = 0; i < count; ++i) tokens[i] = static_cast<std::uint32_t>(philox_uniform(seed, i) * kinds);
  return tokens;
}

// The same by looking at every place: the longest match, the last one of those.
NgramProposer::Proposal by_search(std::span<const std::uint32_t> tokens, std::uint32_t most) {
  for (std::uint32_t matched = NgramProposer::kMaxMatch; matched >= NgramProposer::kMinMatch; --matched) {
    if (matched >= tokens.size()) continue;
    const auto run = tokens.last(matched);
    for (std::size_t end = tokens.size() - 1; end >= matched; --end) {
      if (!std::equal(run.begin(), run.end(), tokens.begin() + static_cast<std::ptrdiff_t>(end - matched))) continue;
      NgramProposer::Proposal found{.tokens = {}, .matched = matched};
      for (std::uint32_t i = 0; i < most; ++i) {
        found.tokens.push_back(end + i < tokens.size() ? tokens[end + i] : found.tokens[end + i - tokens.size()]);
      }
      return found;
    }
  }
  return {};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(ngram_proposer)

BOOST_AUTO_TEST_CASE(what_followed_the_last_tokens_before_is_proposed) {
  NgramProposer proposer;
  const Tokens text = {1, 2, 3, 4, 5, 6, 9, 2, 3};
  const auto proposal = proposer.propose(text, 3);
  BOOST_TEST(proposal.tokens == (Tokens{4, 5, 6}));
  BOOST_TEST(proposal.matched == 2u);
}

BOOST_AUTO_TEST_CASE(the_longest_match_wins_and_the_latest_of_equals) {
  NgramProposer longest;
  BOOST_TEST(longest.propose(Tokens{1, 2, 3, 7, 9, 2, 3, 8, 1, 2, 3}, 1).tokens == (Tokens{7}));
  NgramProposer latest;
  BOOST_TEST(latest.propose(Tokens{2, 3, 7, 2, 3, 8, 2, 3}, 1).tokens == (Tokens{8}));
}

BOOST_AUTO_TEST_CASE(a_period_goes_on_beyond_the_end) {
  NgramProposer proposer;
  BOOST_TEST(proposer.propose(Tokens{4, 5, 6, 4, 5, 6, 4, 5}, 7).tokens == (Tokens{6, 4, 5, 6, 4, 5, 6}));
  NgramProposer same;
  BOOST_TEST(same.propose(Tokens{7, 7, 7, 7}, 3).tokens == (Tokens{7, 7, 7}));
}

BOOST_AUTO_TEST_CASE(nothing_is_proposed_without_a_match_or_without_room) {
  NgramProposer proposer;
  BOOST_TEST(proposer.propose({}, 4).tokens.empty());
  BOOST_TEST(proposer.propose(Tokens{1}, 4).tokens.empty());
  BOOST_TEST(proposer.propose(Tokens{1, 2, 3, 1}, 4).tokens.empty());
  BOOST_TEST(proposer.propose(Tokens{1, 2, 3, 1, 2}, 0).tokens.empty());
  BOOST_TEST(proposer.propose(Tokens{1, 2, 3, 1, 2}, 1).tokens == (Tokens{3}));
}

BOOST_AUTO_TEST_CASE(token_by_token_it_finds_what_a_search_of_the_whole_text_finds) {
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const Tokens text = random_tokens(300, 3 + static_cast<std::uint32_t>(seed), seed);
    NgramProposer proposer;
    for (std::size_t length = 1; length <= text.size(); ++length) {
      const auto known = std::span(text).first(length);
      const auto found = proposer.propose(known, 4), expected = by_search(known, 4);
      BOOST_REQUIRE(found.matched == expected.matched);
      BOOST_REQUIRE(found.tokens == expected.tokens);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_long_prompt_is_read_over_some_calls_and_then_found) {
  Tokens text(10'000);
  std::iota(text.begin(), text.end(), 0);
  text.insert(text.end(), {500, 501});
  NgramProposer proposer;
  int calls = 1;
  while (proposer.propose(text, 2).tokens != Tokens{502, 503}) BOOST_REQUIRE(++calls < 20);
  BOOST_TEST(calls > 1);
}

BOOST_AUTO_TEST_SUITE_END()
