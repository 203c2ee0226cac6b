#include "kernels/cpu/routing.h"

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

namespace troupe::kernels {
namespace {

BOOST_AUTO_TEST_SUITE(routing)

BOOST_AUTO_TEST_CASE(rows_go_to_their_largest_logits_in_order) {
  const float logits[] = {0, 3, 1, 2,  //
                          5, 0, 4, 0,  //
                          0, 1, 0, 2};
  Routing routed;
  const MixtureShape shape = {2, true};
  for (int again = 0; again < 2; ++again) {
    routed.choose({logits, 3, 4}, shape);
    BOOST_REQUIRE(routed.of(0).rows.size() == 1u);
    BOOST_TEST(routed.of(0).rows[0] == 1u);
    BOOST_REQUIRE(routed.of(1).rows.size() == 2u);
    BOOST_TEST(routed.of(1).rows[0] == 0u);
    BOOST_TEST(routed.of(1).rows[1] == 2u);
    BOOST_TEST(routed.of(2).rows.size() == 1u);
    BOOST_TEST(routed.of(3).rows.size() == 2u);
    BOOST_TEST(routed.of(1).weights[0] == static_cast<float>(1 / (1 + std::exp(-1.0))));
    BOOST_TEST(routed.of(1).weights[0] + routed.of(3).weights[0] == 1.0f);
  }
}

BOOST_AUTO_TEST_CASE(weights_are_shares_of_all_experts_where_they_are_not_normalised) {
  const float logits[] = {0, 1, 2};
  Routing routed;
  const MixtureShape shape = {1, false};
  routed.choose({logits, 1, 3}, shape);
  BOOST_REQUIRE(routed.of(2).rows.size() == 1u);
  BOOST_TEST(routed.of(2).weights[0] == static_cast<float>(1 / (1 + std::exp(-1.0) + std::exp(-2.0))));
}

BOOST_AUTO_TEST_CASE(of_equal_logits_the_lower_expert_is_chosen) {
  const float logits[] = {1, 2, 2, 2, 1};
  Routing routed;
  const MixtureShape shape = {2, true};
  routed.choose({logits, 1, 5}, shape);
  BOOST_TEST(routed.of(1).rows.size() == 1u);
  BOOST_TEST(routed.of(2).rows.size() == 1u);
}

BOOST_AUTO_TEST_CASE(what_is_no_number_still_chooses_different_experts) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN(), kInfinity = std::numeric_limits<float>::infinity();
  const float logits[] = {kNan,      kNan, kNan,      kNan,        //
                          kInfinity, 1,    kInfinity, -kInfinity,  //
                          0,         kNan, 2,         3};
  Routing routed;
  const MixtureShape shape = {3, false};
  routed.choose({logits, 3, 4}, shape);
  std::vector<std::set<std::uint32_t>> chosen(3);
  for (std::uint32_t expert = 0; expert < 4; ++expert) {
    for (const std::uint32_t row : routed.of(expert).rows) chosen.at(row).insert(expert);
  }
  for (const auto& experts : chosen) BOOST_TEST(experts.size() == 3u);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::kernels
