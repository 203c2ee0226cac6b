#include "runtime/model/expert_dispatch.h"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <limits>
#include <random>
#include <tuple>
#include <vector>

namespace troupe::model {
namespace {

ModelConfig config_of(std::uint32_t experts, std::uint32_t per_token) {
  ModelConfig config;
  config.num_experts = experts;
  config.num_experts_per_token = per_token;
  config.normalise_experts = true;
  return config;
}

using Pair = std::tuple<std::uint32_t, std::uint32_t, float>;  // expert, row, weight

// What one rank sends, as pairs of the whole batch.
std::vector<Pair> pairs_of(std::span<const DispatchedRows> parts) {
  std::vector<Pair> pairs;
  for (const DispatchedRows& part : parts) {
    for (std::size_t i = 0; i < part.pair_rows.size(); ++i) {
      pairs.emplace_back(part.pair_experts[i], part.rows.at(part.pair_rows[i]), part.pair_weights[i]);
    }
  }
  return pairs;
}

BOOST_AUTO_TEST_SUITE(expert_dispatch)

BOOST_AUTO_TEST_CASE(every_pair_goes_to_one_rank_and_to_the_shard_that_holds_its_expert) {
  constexpr std::uint32_t kTokens = 9;
  const ModelConfig config = config_of(7, 3);
  std::mt19937 random(4);
  std::vector<float> logits(kTokens * config.num_experts);
  for (float& logit : logits) logit = static_cast<float>(random() % 1000) / 100;
  const kernels::ConstMatrixF32 router_logits(logits.data(), kTokens, config.num_experts);
  kernels::Routing routing;
  routing.choose(router_logits, {config.num_experts_per_token, config.normalise_experts});
  std::vector<Pair> expected;
  for (std::uint32_t expert = 0; expert < config.num_experts; ++expert) {
    const auto routed = routing.of(expert);
    for (std::size_t i = 0; i < routed.rows.size(); ++i) {
      expected.emplace_back(expert, routed.rows[i], routed.weights[i]);
    }
  }
  for (std::uint32_t ranks = 1; ranks <= 4; ++ranks) {
    for (std::uint32_t shards = 1; shards <= config.num_experts; ++shards) {
      std::vector<Pair> together;
      for (std::uint32_t rank = 0; rank < ranks; ++rank) {
        ExpertDispatch dispatch(config, {.rank = rank, .world_size = ranks, .expert_shards = shards});
        const auto parts = dispatch.route(router_logits);
        for (std::size_t i = 0; i < parts.size(); ++i) {
          const DispatchedRows& part = parts[i];
          const Range held = even_part(config.num_experts, part.expert_shard, shards);
          BOOST_TEST(part.expert_shard % ranks == rank);
          if (i > 0) BOOST_TEST(parts[i - 1].expert_shard < part.expert_shard);
          BOOST_TEST(std::ranges::is_sorted(part.rows));
          BOOST_TEST(!part.rows.empty());
          for (std::size_t pair = 0; pair < part.pair_rows.size(); ++pair) {
            BOOST_TEST((part.pair_experts[pair] >= held.first && part.pair_experts[pair] < held.last));
            if (pair == 0) continue;
            BOOST_TEST((std::pair(part.pair_experts[pair - 1], part.pair_rows[pair - 1]) <
                        std::pair(part.pair_experts[pair], part.pair_rows[pair])));
          }
          // A row that none of its experts needs is not sent.
          for (std::uint32_t row = 0; row < part.rows.size(); ++row) {
            BOOST_TEST(std::ranges::count(part.pair_rows, row) > 0);
          }
        }
        const auto pairs = pairs_of(parts);
        together.insert(together.end(), pairs.begin(), pairs.end());
      }
      std::ranges::sort(together);
      BOOST_TEST((together == expected), shards << " shards, " << ranks << " ranks");
    }
  }
}

BOOST_AUTO_TEST_CASE(shards_that_no_row_goes_to_are_not_asked_and_nothing_of_a_larger_step_is_left) {
  const ModelConfig config = config_of(4, 1);
  ExpertDispatch dispatch(config, {.world_size = 1, .expert_shards = 4});
  const std::vector<float> everywhere = {9, 0, 0, 0, 0, 9, 0, 0, 0, 0, 9, 0, 0, 0, 0, 9};
  BOOST_TEST(dispatch.route({everywhere.data(), 4, 4}).size() == 4u);
  const std::vector<float> third = {0, 0, 9, 0, 0, 0, 9, 0};
  const auto parts = dispatch.route({third.data(), 2, 4});
  BOOST_REQUIRE(parts.size() == 1u);
  BOOST_TEST(parts[0].expert_shard == 2u);
  BOOST_TEST(parts[0].rows == (std::vector<std::uint32_t>{0, 1}), boost::test_tools::per_element());
  BOOST_TEST(parts[0].pair_rows.size() == 2u);
}

// As where a rank has the experts (kernels/cpu/routing.h).
BOOST_AUTO_TEST_CASE(logits_that_are_not_numbers_still_choose_as_many_experts) {
  const ModelConfig config = config_of(5, 2);
  ExpertDispatch dispatch(config, {.world_size = 1, .expert_shards = 2});
  const std::vector<float> broken(5, std::numeric_limits<float>::quiet_NaN());
  BOOST_TEST(pairs_of(dispatch.route({broken.data(), 1, 5})).size() == 2u);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model
