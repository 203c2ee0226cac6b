#include "runtime/engine/block_manager.h"

#include <boost/test/unit_test.hpp>

using troupe::engine::BlockManager;

BOOST_AUTO_TEST_SUITE(block_manager)

BOOST_AUTO_TEST_CASE(a_table_grows_by_whole_blocks) {
  BlockManager blocks(4, 16);
  BOOST_TEST(blocks.grow(1, 1));
  BOOST_TEST(blocks.table(1).size() == 1u);
  BOOST_TEST(blocks.grow(1, 16));
  BOOST_TEST(blocks.table(1).size() == 1u);
  BOOST_TEST(blocks.grow(1, 17));
  BOOST_TEST(blocks.table(1).size() == 2u);
  BOOST_TEST(blocks.free_blocks() == 2u);
}

BOOST_AUTO_TEST_CASE(growth_that_does_not_fit_changes_nothing) {
  BlockManager blocks(3, 4);
  BOOST_TEST(blocks.grow(1, 8));
  BOOST_TEST(!blocks.grow(2, 8));
  BOOST_TEST(blocks.table(2).empty());
  BOOST_TEST(blocks.free_blocks() == 1u);
  BOOST_TEST(!blocks.grow(1, 17));
  BOOST_TEST(blocks.table(1).size() == 2u);
}

BOOST_AUTO_TEST_CASE(released_blocks_are_free_again) {
  BlockManager blocks(2, 4);
  BOOST_TEST(blocks.grow(1, 8));
  blocks.release(1);
  blocks.release(1);
  BOOST_TEST(blocks.free_blocks() == 2u);
  BOOST_TEST(blocks.table(1).empty());
  BOOST_TEST(blocks.grow(2, 8));
  BOOST_TEST(blocks.table(2)[0] != blocks.table(2)[1]);
}

BOOST_AUTO_TEST_CASE(a_shared_block_is_free_when_its_last_holder_lets_go) {
  BlockManager blocks(4, 4);
  BOOST_TEST(blocks.grow(1, 12));
  blocks.share(2, 1, 2);
  BOOST_TEST(blocks.grow(2, 12));
  BOOST_TEST(blocks.free_blocks() == 0u);
  BOOST_TEST(blocks.references(blocks.table(1)[0]) == 2u);
  blocks.release(1);
  BOOST_TEST(blocks.free_blocks() == 1u);
  BOOST_TEST(blocks.references(blocks.table(2)[0]) == 1u);
  blocks.release(2);
  BOOST_TEST(blocks.free_blocks() == 4u);
}

BOOST_AUTO_TEST_SUITE_END()
