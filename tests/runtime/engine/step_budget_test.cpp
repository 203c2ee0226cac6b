#include "runtime/engine/step_budget.h"

#include <boost/test/unit_test.hpp>
#include <cmath>

#include "runtime/base/philox.h"

using namespace troupe;
using namespace troupe::engine;

namespace {

// A machine: 2 ms a step, 0.1 ms a prompt token, 0.3 ms a decode.
double machine_ns(const StepWork& work) { return 2e6 + 1e5 * work.prefill_tokens + 3e5 * work.decode_tokens; }

// Steps of any kind, with times that scatter by up to `scatter` of themselves.
void watch(StepBudget& budget, std::uint64_t seed, int steps, double scatter, double speed = 1) {
  for (int i = 0; i < steps; ++i) {
    const auto any = [&](int what) { return philox_uniform(seed, static_cast<std::uint64_t>(4 * i + what)); };
    StepWork work{.prefill_tokens = static_cast<std::uint32_t>(any(0) < 0.5 ? 0 : 200 * any(1)),
                  .decode_tokens = static_cast<std::uint32_t>(1 + 8 * any(2))};
    budget.observe(work, static_cast<std::uint64_t>(machine_ns(work) * speed * (1 + scatter * (2 * any(3) - 1))));
  }
}

bool is_near(double value, double expected, double share) { return std::abs(value - expected) <= share * expected; }

}  // namespace

BOOST_AUTO_TEST_SUITE(step_budget)

BOOST_AUTO_TEST_CASE(a_step_with_prompts_takes_at_most_as_much_longer_as_allowed) {
  for (const std::uint64_t percent : {50u, 100u, 300u}) {
    StepBudget budget(percent);
    watch(budget, 1, 200, 0.05);
    for (const std::uint32_t decodes : {1u, 4u, 8u}) {
      const double alone = machine_ns({.decode_tokens = decodes});
      const double due = alone * static_cast<double>(percent) / 100 / 1e5;
      BOOST_TEST(is_near(budget.prefill_tokens(decodes, 0, 10'000), due, 0.15));
    }
  }
}

BOOST_AUTO_TEST_CASE(where_more_wait_than_are_answered_prompts_get_the_larger_part_of_the_time) {
  StepBudget budget(100);
  watch(budget, 1, 200, 0.05);
  const std::uint32_t few = budget.prefill_tokens(4, 4, 10'000);
  BOOST_TEST(few == budget.prefill_tokens(4, 0, 10'000));
  BOOST_TEST(is_near(budget.prefill_tokens(4, 12, 10'000), 3 * few, 0.1));
  BOOST_TEST(budget.prefill_tokens(4, 12, 50) == 50u);
}

BOOST_AUTO_TEST_CASE(a_step_that_decodes_nothing_takes_all_it_may) {
  StepBudget budget(100);
  BOOST_TEST(budget.prefill_tokens(0, 0, 512) == 512u);
  watch(budget, 1, 100, 0.05);
  BOOST_TEST(budget.prefill_tokens(0, 0, 512) == 512u);
  BOOST_TEST(budget.prefill_tokens(4, 0, 7) == 7u);
}

BOOST_AUTO_TEST_CASE(without_a_bound_or_before_both_kinds_of_work_were_seen_nothing_is_held_back) {
  StepBudget off(0);
  watch(off, 1, 100, 0.05);
  BOOST_TEST(off.prefill_tokens(4, 0, 512) == 512u);
  StepBudget young(100);
  young.observe({.prefill_tokens = 100}, 12'000'000);
  BOOST_TEST(young.prefill_tokens(4, 0, 512) == 512u);
  young.observe({.decode_tokens = 4}, 3'200'000);
  BOOST_TEST(young.prefill_tokens(4, 0, 512) < 512u);
}

BOOST_AUTO_TEST_CASE(prompts_always_go_on) {
  StepBudget budget(1);
  watch(budget, 1, 100, 0.05);
  BOOST_TEST(budget.prefill_tokens(1, 0, 512) >= 1u);
  BOOST_TEST(budget.prefill_tokens(1, 0, 3) == 3u);
}

BOOST_AUTO_TEST_CASE(the_model_follows_a_machine_that_becomes_slower_or_faster) {
  for (const double speed : {0.25, 3.0}) {
    StepBudget budget(100);
    watch(budget, 1, 300, 0.05);
    watch(budget, 2, 300, 0.05, speed);
    const StepWork work{.prefill_tokens = 64, .decode_tokens = 4};
    BOOST_TEST(is_near(budget.predict_ns(work), machine_ns(work) * speed, 0.15));
    BOOST_TEST(is_near(budget.predict_ns({.decode_tokens = 4}), machine_ns({.decode_tokens = 4}) * speed, 0.15));
  }
}

BOOST_AUTO_TEST_CASE(prompts_without_end_do_not_make_it_forget_what_decodes_take_alone) {
  StepBudget budget(100);
  watch(budget, 1, 50, 0.05);
  int alone = 0;
  for (int i = 0; i < 2'000; ++i) {
    // A step is as the budget has it, and the machine is half as fast after a while.
    StepWork work{.decode_tokens = 4};
    if (!budget.wants_decodes_alone()) work.prefill_tokens = budget.prefill_tokens(4, 0, 512);
    alone += work.prefill_tokens == 0 ? 1 : 0;
    const double scatter = 1 + 0.1 * (philox_uniform(9, static_cast<std::uint64_t>(i)) - 0.5);
    budget.observe(work, static_cast<std::uint64_t>(machine_ns(work) * scatter * (i < 500 ? 1 : 2)));
  }
  BOOST_TEST(is_near(budget.prefill_tokens(4, 0, 512), 32, 0.2));
  BOOST_TEST(alone > 0);
  BOOST_TEST(alone < 200);
}

BOOST_AUTO_TEST_CASE(one_step_that_was_held_up_by_something_else_changes_little) {
  StepBudget budget(100);
  watch(budget, 1, 200, 0.02);
  const StepWork work{.decode_tokens = 4};
  const double before = budget.predict_ns(work);
  budget.observe(work, 2'000'000'000);  // 600 times as long
  BOOST_TEST(budget.predict_ns(work) < 4 * before);
  for (int i = 0; i < 30; ++i) budget.observe(work, static_cast<std::uint64_t>(machine_ns(work)));
  BOOST_TEST(is_near(budget.predict_ns(work), machine_ns(work), 0.1));
}

BOOST_AUTO_TEST_CASE(the_time_of_a_prompt_counts_the_decodes_that_run_beside_it) {
  StepBudget budget(100);
  BOOST_TEST(budget.prefill_ns(1'000, 0, 500) == 0);
  watch(budget, 1, 300, 0.02);
  BOOST_TEST(budget.prefill_ns(1'000, 0, 500) > 0);
  for (int i = 0; i < 50; ++i) budget.observe({.prefill_tokens = 500}, 52'000'000);
  BOOST_TEST(is_near(budget.prefill_ns(1'000, 0, 500), 104e6, 0.01));
  // 32 tokens a step beside 4 decodes, of 6.4 ms.
  BOOST_TEST(is_near(budget.prefill_ns(1'000, 4, 500), 1'000 / 32.0 * 6.4e6, 0.15));
}

BOOST_AUTO_TEST_CASE(a_step_without_time_or_work_tells_nothing) {
  StepBudget budget(100);
  watch(budget, 1, 50, 0.02);
  const double before = budget.predict_ns({.decode_tokens = 4});
  budget.observe({.decode_tokens = 4}, 0);
  BOOST_TEST(budget.predict_ns({.decode_tokens = 4}) == before);
}

BOOST_AUTO_TEST_SUITE_END()
