#include "runtime/engine/guess_length.h"

#include <boost/test/unit_test.hpp>
#include <cmath>

#include "runtime/base/philox.h"

using namespace troupe;
using namespace troupe::engine;

namespace {

using Lengths = std::vector<std::uint32_t>;

StepCost cost_of(double ns, double ns_a_row) {
  StepCost cost;
  for (int rows = 1; rows <= 9; ++rows) cost.observe(rows, ns + ns_a_row * rows);
  return cost;
}

// Tokens a nanosecond of one sequence with so many guesses.
double speed(std::uint32_t length, double acceptance, const StepCost& cost) {
  double tokens = 1;
  for (std::uint32_t i = 1; i <= length; ++i) tokens += std::pow(acceptance, i);
  return tokens / cost.ns(1 + length);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(guess_length)

BOOST_AUTO_TEST_CASE(a_line_is_found_again) {
  const StepCost cost = cost_of(1'000, 50);
  BOOST_TEST(cost.ns(1) == 1'050, boost::test_tools::tolerance(1e-6));
  BOOST_TEST(cost.ns(20) == 2'000, boost::test_tools::tolerance(1e-6));
}

BOOST_AUTO_TEST_CASE(the_line_follows_a_machine_that_becomes_slower) {
  StepCost cost = cost_of(1'000, 50);
  for (int i = 0; i < 400; ++i) cost.observe(1 + i % 5, 4'000 + 500 * (1 + i % 5));
  BOOST_TEST(cost.ns_a_row() == 500, boost::test_tools::tolerance(0.02));
}

BOOST_AUTO_TEST_CASE(a_hiccup_moves_the_line_little) {
  StepCost cost;
  for (int i = 0; i < 100; ++i) cost.observe(1 + i % 5, 1'000 + 50 * (1 + i % 5));
  cost.observe(3, 1e9);
  BOOST_TEST(cost.ns(3) < 1'180);
}

BOOST_AUTO_TEST_CASE(a_row_neither_saves_time_nor_costs_more_than_there_is) {
  StepCost falling, steep;
  for (int i = 0; i < 8; ++i) {
    falling.observe(1 + i % 2, 1'000 - 300 * (i % 2));
    steep.observe(1 + i % 2, i % 2 == 0 ? 1 : 1'000);
  }
  BOOST_TEST(falling.ns_a_row() == 0);
  BOOST_TEST(steep.ns_a_row() == steep.ns(1.5) / 1.5, boost::test_tools::tolerance(0.02));
}

BOOST_AUTO_TEST_CASE(acceptance_begins_at_the_prior_and_follows_what_comes_true) {
  Acceptance acceptance;
  BOOST_TEST(acceptance.rate(0.25) == 0.25);
  for (int i = 0; i < 50; ++i) acceptance.observe(4, 4);
  BOOST_TEST(acceptance.rate(0.25) > 0.95);
  for (int i = 0; i < 50; ++i) acceptance.observe(4, 0);
  BOOST_TEST(acceptance.rate(0.25) < 0.1);
}

BOOST_AUTO_TEST_CASE(a_single_sequence_gets_the_length_with_the_highest_speed) {
  for (const double share : {0.03, 0.1, 0.3, 1.0}) {
    const StepCost cost = cost_of(1'000, 1'000 * share);
    for (double acceptance = 0.05; acceptance < 1; acceptance += 0.1) {
      const std::uint32_t chosen = guess_lengths({{{.most = 8, .acceptance = acceptance}}}, 1, 100, cost)[0];
      for (std::uint32_t other = 0; other <= 8; ++other) {
        // A profit below a tenth is no reason to guess.
        BOOST_TEST(speed(chosen, acceptance, cost) * 1.1 >= speed(other, acceptance, cost));
      }
      BOOST_TEST(speed(chosen, acceptance, cost) >= speed(0, acceptance, cost));
    }
  }
}

BOOST_AUTO_TEST_CASE(rows_go_to_the_sequences_whose_guesses_come_true) {
  const StepCost cost = cost_of(1'000, 60);
  const Lengths lengths = guess_lengths({{{8, 0.95}, {8, 0.02}, {2, 0.95}}}, 3, 100, cost);
  BOOST_TEST(lengths == (Lengths{8, 0, 2}));
  BOOST_TEST(guess_lengths({{{8, 0.95}, {8, 0.88}}}, 2, 3, cost) == (Lengths{2, 1}));
}

BOOST_AUTO_TEST_CASE(when_rows_are_what_costs_guesses_do_not_pay) {
  const StepCost cost = cost_of(0, 100);
  const std::vector<GuessCandidate> many(64, {.most = 4, .acceptance = 0.8});
  for (const std::uint32_t length : guess_lengths(many, 64, 400, cost)) BOOST_TEST(length == 0u);
}

BOOST_AUTO_TEST_CASE(before_anything_was_measured_nobody_guesses) {
  BOOST_TEST(guess_lengths({{{8, 1.0}}}, 1, 100, {})[0] == 0u);
}

BOOST_AUTO_TEST_SUITE_END()
