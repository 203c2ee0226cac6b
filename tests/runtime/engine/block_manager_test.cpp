#include "runtime/engine/block_manager.h"

#include <boost/test/unit_test.hpp>
#include <numeric>

using namespace troupe::engine;

namespace {

constexpr std::uint64_t kKeepAll = 1'000;
using Numbers = std::vector<std::uint32_t>;

// Tokens first, first + 1, ...
Numbers run(std::uint32_t first, std::uint32_t count) {
  Numbers tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// A sequence that begins behind what is cached of it, has its tokens computed, and publishes them.
void compute(BlockManager& blocks, std::uint64_t sequence, const Numbers& tokens, std::string_view salt = "") {
  blocks.adopt(sequence, blocks.find_prefix(salt, tokens));
  BOOST_REQUIRE(blocks.grow(sequence, tokens.size()));
  blocks.publish(sequence, salt, tokens);
}

std::size_t found(const BlockManager& blocks, const Numbers& tokens, std::string_view salt = "") {
  return blocks.find_prefix(salt, tokens).blocks.size();
}

Numbers table_of(const BlockManager& blocks, std::uint64_t sequence) {
  const auto table = blocks.table(sequence);
  return {table.begin(), table.end()};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(block_manager)

BOOST_AUTO_TEST_CASE(a_table_grows_by_whole_blocks) {
  BlockManager blocks(4, 16, kKeepAll);
  BOOST_TEST(blocks.grow(1, 1));
  BOOST_TEST(blocks.table(1).size() == 1u);
  BOOST_TEST(blocks.grow(1, 16));
  BOOST_TEST(blocks.table(1).size() == 1u);
  BOOST_TEST(blocks.grow(1, 17));
  BOOST_TEST(blocks.table(1).size() == 2u);
  BOOST_TEST(blocks.free_blocks() == 2u);
}

BOOST_AUTO_TEST_CASE(growth_that_does_not_fit_changes_nothing) {
  BlockManager blocks(3, 4, kKeepAll);
  BOOST_TEST(blocks.grow(1, 8));
  BOOST_TEST(!blocks.grow(2, 8));
  BOOST_TEST(blocks.table(2).empty());
  BOOST_TEST(blocks.free_blocks() == 1u);
  BOOST_TEST(!blocks.grow(1, 17));
  BOOST_TEST(blocks.table(1).size() == 2u);
}

BOOST_AUTO_TEST_CASE(released_blocks_are_free_again) {
  BlockManager blocks(2, 4, kKeepAll);
  BOOST_TEST(blocks.grow(1, 8));
  blocks.release(1);
  blocks.release(1);
  BOOST_TEST(blocks.free_blocks() == 2u);
  BOOST_TEST(blocks.table(1).empty());
  BOOST_TEST(blocks.grow(2, 8));
  BOOST_TEST(blocks.table(2)[0] != blocks.table(2)[1]);
}

BOOST_AUTO_TEST_CASE(full_blocks_are_found_again_after_their_sequence_is_gone) {
  BlockManager blocks(8, 4, kKeepAll);
  compute(blocks, 1, run(0, 10));
  const Numbers first = table_of(blocks, 1);
  blocks.release(1);
  BOOST_TEST(blocks.free_blocks() == 8u);
  const CachedPrefix prefix = blocks.find_prefix("", run(0, 10));
  BOOST_TEST(prefix.blocks == (Numbers{first[0], first[1]}));
  BOOST_TEST(prefix.idle == 2u);
  blocks.adopt(2, prefix);
  BOOST_TEST(blocks.free_blocks() == 6u);
  BOOST_TEST(found(blocks, run(0, 7)) == 1u);
  BOOST_TEST(found(blocks, run(1, 10)) == 0u);
}

BOOST_AUTO_TEST_CASE(one_token_is_always_left_to_compute) {
  BlockManager blocks(8, 4, kKeepAll);
  compute(blocks, 1, run(0, 8));
  BOOST_TEST(found(blocks, run(0, 8)) == 1u);
  BOOST_TEST(found(blocks, run(0, 9)) == 2u);
  BOOST_TEST(found(blocks, run(0, 4)) == 0u);
}

BOOST_AUTO_TEST_CASE(only_the_same_salt_finds_a_block) {
  BlockManager blocks(8, 4, kKeepAll);
  compute(blocks, 1, run(0, 8), "a");
  BOOST_TEST(found(blocks, run(0, 9), "a") == 2u);
  BOOST_TEST(found(blocks, run(0, 9), "b") == 0u);
  BOOST_TEST(found(blocks, run(0, 9)) == 0u);
  compute(blocks, 2, run(0, 8), "b");
  BOOST_TEST(blocks.references(blocks.table(1)[0]) == 1u);
}

BOOST_AUTO_TEST_CASE(a_shared_block_is_idle_when_its_last_holder_lets_go) {
  BlockManager blocks(4, 4, kKeepAll);
  compute(blocks, 1, run(0, 9));
  compute(blocks, 2, run(0, 9));
  BOOST_TEST(blocks.free_blocks() == 0u);
  BOOST_TEST(blocks.references(blocks.table(1)[0]) == 2u);
  blocks.release(1);
  BOOST_TEST(blocks.free_blocks() == 1u);
  BOOST_TEST(blocks.references(blocks.table(2)[0]) == 1u);
  blocks.release(2);
  BOOST_TEST(blocks.free_blocks() == 4u);
  BOOST_TEST(blocks.cache().idle_nodes() == 2u);
}

BOOST_AUTO_TEST_CASE(the_leaf_that_nobody_held_for_longest_goes_first) {
  BlockManager blocks(6, 4, kKeepAll);
  compute(blocks, 1, run(0, 8));    // blocks A, B
  compute(blocks, 2, run(100, 8));  // blocks C, D
  blocks.release(1);
  blocks.release(2);
  compute(blocks, 3, run(0, 8));  // A, held once more, and a twin of B that takes its place
  blocks.release(3);
  BOOST_TEST(blocks.grow(4, 3 * 4));  // the two that were never used, and one of the cache: D
  BOOST_TEST(found(blocks, run(100, 9)) == 1u);
  BOOST_TEST(found(blocks, run(0, 9)) == 2u);
  BOOST_TEST(blocks.grow(4, 4 * 4));
  BOOST_TEST(found(blocks, run(100, 9)) == 0u);
  BOOST_TEST(blocks.grow(4, 5 * 4));
  BOOST_TEST(found(blocks, run(0, 9)) == 1u);
  BOOST_TEST(blocks.grow(4, 6 * 4));
  BOOST_TEST(found(blocks, run(0, 9)) == 0u);
  BOOST_TEST(!blocks.grow(4, 7 * 4));
}

BOOST_AUTO_TEST_CASE(what_a_sequence_holds_is_never_evicted) {
  BlockManager blocks(4, 4, kKeepAll);
  compute(blocks, 1, run(0, 8));
  BOOST_TEST(blocks.grow(2, 8));
  BOOST_TEST(!blocks.grow(2, 9));
  BOOST_TEST(found(blocks, run(0, 9)) == 2u);
}

BOOST_AUTO_TEST_CASE(the_same_contents_computed_twice_are_published_once) {
  BlockManager blocks(8, 4, kKeepAll);
  BOOST_TEST(blocks.grow(1, 8));
  BOOST_TEST(blocks.grow(2, 12));
  blocks.publish(1, "", run(0, 8));
  blocks.publish(2, "", run(0, 12));
  BOOST_TEST(blocks.published(2) == 0u);
  BOOST_TEST(blocks.cache().size() == 2u);
  // The first lets go: the second's own blocks take the places, and what comes after them can be found as well.
  blocks.release(1);
  blocks.publish(2, "", run(0, 12));
  BOOST_TEST(blocks.published(2) == 3u);
  BOOST_TEST(blocks.free_blocks() == 5u);
  BOOST_TEST(blocks.find_prefix("", run(0, 13)).blocks == table_of(blocks, 2));
}

BOOST_AUTO_TEST_CASE(no_more_idle_blocks_stay_cached_than_the_limit_says) {
  BlockManager blocks(8, 4, 1);
  compute(blocks, 1, run(0, 12));
  BOOST_TEST(blocks.cache().size() == 3u);
  blocks.release(1);
  BOOST_TEST(blocks.cache().size() == 1u);
  BOOST_TEST(found(blocks, run(0, 12)) == 1u);

  BlockManager none(8, 4, 0);
  BOOST_TEST(!none.caches());
  compute(none, 1, run(0, 12));
  BOOST_TEST(none.cache().size() == 0u);
  BOOST_TEST(found(none, run(0, 12)) == 0u);
}

BOOST_AUTO_TEST_CASE(pages_that_hold_nothing_any_more_are_not_found) {
  BlockManager blocks(4, 4, kKeepAll);
  compute(blocks, 1, run(0, 12));
  blocks.release(1);
  blocks.forget_published();
  BOOST_TEST(found(blocks, run(0, 12)) == 0u);
  BOOST_TEST(blocks.cache().size() == 0u);
  BOOST_TEST(blocks.grow(2, 16));
}

BOOST_AUTO_TEST_SUITE_END()
