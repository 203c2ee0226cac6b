#include "runtime/model/arenas.h"

#include <boost/test/unit_test.hpp>

#include "tests/runtime/model/late_memory.h"

namespace troupe::model {
namespace {

BOOST_AUTO_TEST_SUITE(arenas)

BOOST_AUTO_TEST_CASE(pieces_are_aligned_and_counted_until_nothing_is_left) {
  auto arena = Arena::create(3 * Arena::kAlignment, "a test");
  BOOST_REQUIRE(arena.ok());
  BOOST_TEST(reinterpret_cast<std::uintptr_t>(arena->take(1)) % Arena::kAlignment == 0u);
  ArenaLevel level = arena->level("test");
  BOOST_TEST(level.arena == "test");
  BOOST_TEST(level.capacity == 3 * Arena::kAlignment);
  BOOST_TEST(level.used == Arena::kAlignment);
  BOOST_TEST(level.largest_free == 2 * Arena::kAlignment);
  arena->take(Arena::kAlignment + 1);
  level = arena->level("test");
  BOOST_TEST(level.used == level.capacity);
  BOOST_TEST(level.peak == level.capacity);
  BOOST_TEST(level.largest_free == 0u);
}

BOOST_AUTO_TEST_CASE(what_a_device_has_no_room_for_is_told_with_the_limit_to_change) {
  testing::LateMemory memory;
  memory.free = {.free_bytes = 1000, .total_bytes = 5000};
  BOOST_TEST(check_room({.weights = 600, .kv = 300, .scratch = 100}, memory).ok());
  const auto pages = check_room({.weights = 600, .kv = 301, .scratch = 100}, memory);
  BOOST_REQUIRE(!pages.ok());
  BOOST_TEST((pages.error().code == ErrorCode::kResourceExhausted));
  BOOST_TEST(
      pages.error().message ==
      "1000 of the device's 5000 bytes are free; the weights take 600, KV pages 301 (limit kv_memory) and scratch "
      "100 (limits max_batch_tokens, max_batch_sequences): lower limits.kv_memory to 300 or less");
  const auto weights = check_room({.weights = 950, .kv = 1, .scratch = 50}, memory);
  BOOST_REQUIRE(!weights.ok());
  BOOST_TEST(weights.error().message.ends_with(
      "quantise the model, share it out among more devices, or end who uses this one"));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model
