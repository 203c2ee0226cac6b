#include "runtime/base/philox.h"

#include <boost/test/unit_test.hpp>

using namespace troupe;

BOOST_AUTO_TEST_SUITE(philox)

// The known answers that the authors publish with Random123 (kat_vectors, philox4x32 10).
BOOST_AUTO_TEST_CASE(philox_gives_the_published_known_answers) {
  constexpr std::uint32_t kOnes = 0xffffffff;
  BOOST_TEST((philox4x32({0, 0, 0, 0}, {0, 0}) == PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  BOOST_TEST((philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}) ==
              PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  BOOST_TEST((philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
              PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

BOOST_AUTO_TEST_CASE(uniform_numbers_fill_the_unit_interval_evenly) {
  constexpr int kDraws = 64'000, kBins = 16;
  std::array<int, kBins> counts{};
  for (int position = 0; position < kDraws; ++position) {
    const double uniform = philox_uniform(42, position);
    BOOST_REQUIRE(uniform >= 0);
    BOOST_REQUIRE(uniform < 1);
    ++counts[static_cast<std::size_t>(uniform * kBins)];
  }
  double chi_square = 0;
  const double expected = double{kDraws} / kBins;
  for (const int count : counts) chi_square += (count - expected) * (count - expected) / expected;
  BOOST_TEST(chi_square < 37.7);  // 15 degrees of freedom, p = 0.001
}

BOOST_AUTO_TEST_CASE(seed_and_position_each_change_the_number) {
  BOOST_TEST(philox_uniform(1, 7) == philox_uniform(1, 7));
  BOOST_TEST(philox_uniform(1, 7) != philox_uniform(1, 8));
  BOOST_TEST(philox_uniform(1, 7) != philox_uniform(2, 7));
  BOOST_TEST(philox_uniform(1, 7) != philox_uniform(1ULL << 32 | 1, 7));
  BOOST_TEST(philox_uniform(1, 7) != philox_uniform(1, 1ULL << 32 | 7));
}

BOOST_AUTO_TEST_SUITE_END()
