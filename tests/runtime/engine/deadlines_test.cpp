#include "runtime/engine/deadlines.h"

#include <boost/test/unit_test.hpp>

#include "tests/runtime/engine/replica.h"

using namespace troupe;
using namespace troupe::engine;
using namespace troupe::engine::testing;
using schema::FinishReason;

BOOST_TEST_DONT_PRINT_LOG_VALUE(FinishReason)

namespace {

constexpr std::uint64_t kMs = 1'000'000;

// A step that takes so long.
void step(Replica& replica, std::uint64_t took_ns) {
  BOOST_REQUIRE(replica.form_step());
  replica.now_ns += took_ns;
  replica.run_oldest_step();
}

}  // namespace

BOOST_AUTO_TEST_SUITE(deadlines)

BOOST_AUTO_TEST_CASE(the_earliest_is_due_first_and_can_be_moved) {
  Deadlines deadlines;
  BOOST_TEST(!deadlines.next_ns());
  deadlines.set(1, 50);
  deadlines.set(2, 40);
  deadlines.set(3, 60);
  deadlines.set(1, 70);
  deadlines.erase(3);
  deadlines.erase(3);
  BOOST_TEST(deadlines.next_ns().value() == 40u);
  BOOST_TEST(!deadlines.take_due(39));
  BOOST_TEST(deadlines.take_due(80).value() == 2u);
  BOOST_TEST(deadlines.take_due(80).value() == 1u);
  BOOST_TEST(!deadlines.take_due(80));
}

BOOST_AUTO_TEST_CASE(a_request_that_waits_ends_at_its_deadline_and_others_do_not) {
  Replica replica(roomy_options());
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(3), .deadline_ms = 5}).ok());
  BOOST_TEST(replica.admit({.request = 2, .prompt = prompt_of(3)}).ok());
  BOOST_TEST(replica.engine.next_expiry_ns().value() == 1'000 + 5 * kMs);
  replica.now_ns = 1'000 + 5 * kMs - 1;
  replica.expire();
  BOOST_TEST(replica.answers.empty());
  ++replica.now_ns;
  replica.expire();
  BOOST_TEST((replica.answer(1).error->code == ErrorCode::kDeadlineExceeded));
  BOOST_TEST(replica.answer(1).error->param == "timeout");
  BOOST_TEST(!replica.engine.next_expiry_ns());
  replica.run_until_idle();
  BOOST_TEST(replica.answer(2).finish == FinishReason::LENGTH);
  BOOST_TEST(replica.engine.counts().expired == 1u);
}

BOOST_AUTO_TEST_CASE(a_request_that_runs_ends_at_its_deadline_and_gives_its_blocks_back) {
  for (const bool in_flight : {false, true}) {
    Replica replica(roomy_options());
    BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(3), .max_tokens = 50, .deadline_ms = 5}).ok());
    step(replica, 2 * kMs);
    step(replica, 2 * kMs);
    if (in_flight) BOOST_TEST(replica.form_step());
    replica.now_ns += 2 * kMs;
    replica.expire();
    BOOST_TEST((replica.answer(1).error->code == ErrorCode::kDeadlineExceeded));
    BOOST_TEST(replica.answer(1).tokens.size() == 2u);
    BOOST_TEST(!replica.engine.next_expiry_ns());
    if (in_flight) replica.run_oldest_step();
    BOOST_TEST(replica.engine.idle());
    BOOST_TEST(replica.engine.blocks().free_blocks() == 64u);
  }
}

BOOST_AUTO_TEST_CASE(a_prompt_that_cannot_be_read_in_time_is_refused_before_it_begins) {
  EngineOptions options = roomy_options();
  options.max_batch_tokens = 10;
  Replica replica(options);
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(40), .max_tokens = 2}).ok());
  for (int i = 0; i < 4; ++i) step(replica, 10 * kMs);  // a token takes 1 ms
  replica.run_until_idle();
  const Result<void> refused = replica.admit({.request = 2, .prompt = prompt_of(40, 1), .deadline_ms = 20});
  BOOST_TEST((refused.error().code == ErrorCode::kDeadlineExceeded));
  BOOST_TEST(refused.error().param == "timeout");
  BOOST_TEST(replica.admit({.request = 3, .prompt = prompt_of(40, 1), .deadline_ms = 80}).ok());
  // What the pages hold already takes no time.
  BOOST_TEST(replica.admit({.request = 4, .prompt = prompt_of(40), .deadline_ms = 60}).ok());
}

BOOST_AUTO_TEST_CASE(a_request_leaves_the_queue_when_its_prompt_could_no_longer_be_read_in_time) {
  EngineOptions options = roomy_options();
  options.max_batch_tokens = 10;
  options.max_batch_sequences = 1;
  Replica replica(options);
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(40), .max_tokens = 20}).ok());
  for (int i = 0; i < 4; ++i) step(replica, 10 * kMs);
  BOOST_TEST(replica.admit({.request = 2, .prompt = prompt_of(40, 1), .deadline_ms = 100}).ok());
  const std::uint64_t start = replica.now_ns;
  const std::uint64_t latest = replica.engine.next_expiry_ns().value();
  BOOST_TEST(latest > start);
  BOOST_TEST(latest < start + 80 * kMs);
  replica.now_ns = latest;
  replica.expire();
  BOOST_TEST((replica.answer(2).error->code == ErrorCode::kDeadlineExceeded));
  BOOST_TEST(replica.answer(2).tokens.empty());
}

BOOST_AUTO_TEST_CASE(a_deadline_out_of_range_is_refused_by_name) {
  Replica replica(roomy_options());
  BOOST_TEST(replica.admit({.prompt = prompt_of(3), .deadline_ms = 86'400'001}).error().param == "timeout");
  BOOST_TEST(replica.admit({.prompt = prompt_of(3), .deadline_ms = 86'400'000}).ok());
}

BOOST_AUTO_TEST_SUITE_END()
