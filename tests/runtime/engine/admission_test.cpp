#include "runtime/engine/admission.h"

#include <boost/test/unit_test.hpp>

#include "runtime/engine/drain_rate.h"
#include "tests/runtime/engine/replica.h"

using namespace troupe;
using namespace troupe::engine;
using namespace troupe::engine::testing;

namespace {

Limits limits_of(std::uint64_t queue, std::uint64_t target_ttft_ms = 0) {
  Limits limits;
  limits.queue = queue;
  limits.target_ttft_ms = target_ttft_ms;
  return limits;
}

bool is_full(const Result<void>& result) {
  return !result.ok() && result.error().code == ErrorCode::kResourceExhausted;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(admission)

BOOST_AUTO_TEST_CASE(a_full_queue_says_when_it_will_be_worked_off) {
  Admission admission(limits_of(3));
  const Backlog backlog{.requests = 3, .tokens = 500, .tokens_per_s = 200};
  const Result<void> refused = admission.admit({.request = 1}, backlog);
  BOOST_TEST(is_full(refused));
  BOOST_TEST(refused.error().param == "queue");
  BOOST_TEST(refused.error().retry_after_ms == 2'500u);
  BOOST_TEST(admission.room(backlog).requests == 0u);
  BOOST_TEST(admission.room(backlog).retry_after_ms == 2'500u);
  BOOST_TEST(admission.admit({.request = 2}, {.requests = 3}).error().retry_after_ms == 0u);
  BOOST_TEST(admission.room({.requests = 1}).requests == 2u);
}

BOOST_AUTO_TEST_CASE(prompts_that_would_begin_after_the_target_are_refused_unless_nobody_waits) {
  Admission admission(limits_of(100, 1'000));
  const Backlog backlog{.requests = 2, .tokens = 199, .tokens_per_s = 200};
  BOOST_TEST(admission.admit({.request = 1}, backlog).ok());
  const Result<void> refused = admission.admit({.request = 2}, {.requests = 2, .tokens = 200, .tokens_per_s = 200});
  BOOST_TEST(is_full(refused));
  BOOST_TEST(refused.error().param == "target_ttft_ms");
  BOOST_TEST(refused.error().retry_after_ms == 1'000u);
  BOOST_TEST(admission.admit({.request = 3}, {.tokens = 9'999, .tokens_per_s = 200}).ok());
  BOOST_TEST(admission.admit({.request = 4}, {.requests = 5, .tokens = 9'999}).ok());  // unknown speed
  BOOST_TEST(admission.room(backlog).requests == 98u);
  BOOST_TEST(admission.room({.requests = 2, .tokens = 200, .tokens_per_s = 200}).requests == 0u);
}

BOOST_AUTO_TEST_CASE(advice_is_never_longer_than_clients_take) {
  Admission admission(limits_of(1));
  const Backlog backlog{.requests = 1, .tokens = 1'000'000, .tokens_per_s = 1};
  BOOST_TEST(admission.admit({.request = 1}, backlog).error().retry_after_ms == 60'000u);
}

BOOST_AUTO_TEST_CASE(choices_of_one_request_are_taken_or_refused_together) {
  Admission admission(limits_of(4));
  const auto admit = [&](std::uint64_t owner, std::uint64_t request, std::uint32_t siblings, std::uint64_t waiting) {
    const Arrival arrival{.owner = owner, .request = request, .siblings = siblings, .sibling_tokens = 5 * siblings};
    return admission.admit(arrival, {.requests = waiting});
  };
  // One place too few: refused to the last choice, though that alone would fit.
  BOOST_TEST(is_full(admit(1, 10, 2, 2)));
  BOOST_TEST(is_full(admit(1, 11, 1, 2)));
  BOOST_TEST(is_full(admit(1, 12, 0, 2)));
  // Taken: what others ask for meanwhile finds the places reserved.
  BOOST_TEST(admit(1, 20, 2, 1).ok());
  BOOST_TEST(is_full(admit(2, 1, 0, 2)));
  BOOST_TEST(admission.room({.requests = 2}).requests == 0u);
  BOOST_TEST(admit(1, 21, 1, 2).ok());
  BOOST_TEST(admit(1, 22, 0, 3).ok());
  BOOST_TEST(admission.room({.requests = 3}).requests == 1u);
  BOOST_TEST(admit(2, 2, 0, 3).ok());
}

BOOST_AUTO_TEST_CASE(a_reservation_ends_with_its_owner_or_its_next_request) {
  Admission admission(limits_of(4));
  BOOST_TEST(admission.admit({.owner = 1, .request = 1, .siblings = 3}, {}).ok());
  BOOST_TEST(admission.room({.requests = 1}).requests == 0u);
  BOOST_TEST(admission.admit({.owner = 1, .request = 9}, {.requests = 1}).ok());
  BOOST_TEST(admission.room({.requests = 2}).requests == 2u);
  BOOST_TEST(admission.admit({.owner = 1, .request = 10, .siblings = 1}, {.requests = 2}).ok());
  admission.forget(1);
  BOOST_TEST(admission.room({.requests = 2}).requests == 2u);
}

BOOST_AUTO_TEST_CASE(more_choices_than_the_queue_ever_takes_are_a_mistake) {
  Admission admission(limits_of(4));
  const Result<void> refused = admission.admit({.owner = 1, .request = 1, .siblings = 4}, {});
  BOOST_TEST((refused.error().code == ErrorCode::kInvalidArgument));
  BOOST_TEST(admission.admit({.owner = 1, .request = 5, .siblings = 1, .sibling_tokens = ~std::uint64_t{0}}, {}).ok());
}

BOOST_AUTO_TEST_CASE(the_rate_counts_only_the_time_in_which_somebody_waits) {
  constexpr std::uint64_t kSecond = 1'000'000'000;
  DrainRate rate;
  rate.step(0, 1'000, false);
  rate.step(5 * kSecond, 1'000, true);  // nobody waited until now
  BOOST_TEST(rate.tokens_per_s() == 0);
  rate.step(6 * kSecond, 100, true);
  BOOST_TEST(rate.tokens_per_s() == 101, boost::test_tools::tolerance(1e-9));
  rate.step(7 * kSecond, 299, false);
  BOOST_TEST(rate.tokens_per_s() == 200, boost::test_tools::tolerance(1e-9));
  rate.step(9 * kSecond, 5'000, true);
  rate.pause();
  rate.step(50 * kSecond, 5'000, false);
  BOOST_TEST(rate.tokens_per_s() == 200, boost::test_tools::tolerance(1e-9));
}

BOOST_AUTO_TEST_CASE(the_rate_forgets_what_was_long_ago_and_tells_a_standstill) {
  constexpr std::uint64_t kSecond = 1'000'000'000;
  DrainRate rate;
  for (std::uint64_t second = 0; second < 20; ++second) rate.step(second * kSecond, 1'000, true);
  BOOST_TEST(rate.tokens_per_s() == 1'000, boost::test_tools::tolerance(0.01));
  for (std::uint64_t second = 20; second < 60; ++second) rate.step(second * kSecond, 0, true);
  BOOST_TEST(rate.tokens_per_s() > 0);
  BOOST_TEST(rate.tokens_per_s() < 10);
}

BOOST_AUTO_TEST_CASE(the_engine_measures_how_fast_its_queue_is_worked_off) {
  EngineOptions options = roomy_options();
  options.max_batch_sequences = 1;
  options.limits.target_ttft_ms = 2'000;
  Replica replica(options);
  std::uint64_t request = 0;
  // Ten tokens of prompts a second: one request of five, which takes five steps of 0.1 s.
  while (request < 8) BOOST_TEST(replica.admit({.request = request++, .prompt = prompt_of(5), .max_tokens = 5}).ok());
  for (int i = 0; i < 30; ++i) {
    BOOST_REQUIRE(replica.form_step());
    replica.now_ns += 100'000'000;
    replica.run_oldest_step();
  }
  BOOST_TEST(replica.engine.backlog().tokens_per_s == 10, boost::test_tools::tolerance(0.2));
  BOOST_TEST(replica.engine.backlog().tokens == 10u);
  // However long: what it needs itself is not waiting.
  BOOST_TEST(replica.admit({.request = request++, .prompt = prompt_of(12)}).ok());
  const Result<void> refused = replica.admit({.request = request++, .prompt = prompt_of(1)});
  BOOST_TEST(refused.error().param == "target_ttft_ms");
  BOOST_TEST(refused.error().retry_after_ms > 1'800u);
  BOOST_TEST(refused.error().retry_after_ms < 2'700u);
}

BOOST_AUTO_TEST_SUITE_END()
