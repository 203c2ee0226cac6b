#include <boost/test/unit_test.hpp>

#include "tests/runtime/engine/replica.h"

using namespace troupe;
using namespace troupe::engine;
using namespace troupe::engine::testing;
using schema::FinishReason;

BOOST_TEST_DONT_PRINT_LOG_VALUE(FinishReason)

namespace {

// Sequences of the newest step.
std::vector<std::uint64_t> in_step(const Replica& replica) {
  std::vector<std::uint64_t> ids;
  for (const std::uint64_t id : replica.newest_step().getSequences()) ids.push_back(id);
  return ids;
}

void step(Replica& replica) {
  BOOST_REQUIRE(replica.form_step());
  replica.run_oldest_step();
}

bool is_due(Replica& replica, const Request& request) {
  return replica.answer(request.request).tokens ==
         expected_tokens(request.prompt, request.max_tokens, request.sampling, kVocab);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(priorities)

BOOST_AUTO_TEST_CASE(the_smaller_number_enters_first_and_equals_in_order) {
  EngineOptions options = roomy_options();
  options.max_batch_sequences = 1;
  Replica replica(options);
  const std::int32_t given[] = {0, 5, -3, 0, -3, 100, -100};
  for (std::uint64_t i = 0; i < 7; ++i) {
    BOOST_TEST(replica.admit({.request = i, .prompt = prompt_of(3), .max_tokens = 2, .priority = given[i]}).ok());
  }
  std::vector<std::uint64_t> order;
  replica.on_step = [&](schema::Step::Reader step, const FlatStep&) {
    for (const auto start : step.getStarts()) order.push_back(start.getSequence() - 1);
  };
  replica.run_until_idle();
  BOOST_TEST(order == (std::vector<std::uint64_t>{6, 2, 4, 0, 3, 1, 5}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_priority_out_of_range_is_refused_by_name) {
  Replica replica(roomy_options());
  BOOST_TEST(replica.admit({.prompt = prompt_of(3), .priority = 101}).error().param == "priority");
  BOOST_TEST(replica.admit({.prompt = prompt_of(3), .priority = -101}).error().param == "priority");
}

BOOST_AUTO_TEST_CASE(a_more_urgent_request_takes_the_slot_of_the_youngest_of_the_least_urgent) {
  EngineOptions options = roomy_options();
  options.max_batch_sequences = 3;
  Replica replica(options);
  const Request requests[] = {{.request = 1, .prompt = prompt_of(3, 1), .max_tokens = 9, .priority = 0},
                              {.request = 2, .prompt = prompt_of(3, 2), .max_tokens = 9, .priority = 7},
                              {.request = 3, .prompt = prompt_of(3, 3), .max_tokens = 9, .priority = 7},
                              {.request = 4, .prompt = prompt_of(3, 4), .max_tokens = 9, .priority = -1}};
  for (int i = 0; i < 3; ++i) BOOST_TEST(replica.admit(requests[i]).ok());
  step(replica);
  step(replica);
  BOOST_TEST(replica.admit(requests[3]).ok());
  BOOST_TEST(replica.form_step());
  BOOST_TEST(in_step(replica) == (std::vector<std::uint64_t>{1, 2, 4}), boost::test_tools::per_element());
  BOOST_TEST(replica.engine.counts().preemptions == 1u);
  replica.run_oldest_step();
  replica.run_until_idle();
  BOOST_TEST(replica.engine.counts().preemptions == 1u);
  for (const Request& request : requests) BOOST_TEST(is_due(replica, request));
}

BOOST_AUTO_TEST_CASE(a_more_urgent_request_takes_as_many_blocks_as_it_needs_and_no_more) {
  EngineOptions options = roomy_options(9);
  Replica replica(options);
  // Three of two blocks each, then one that needs four: three are free.
  for (std::uint64_t i = 1; i <= 3; ++i) {
    BOOST_TEST(replica
                   .admit({.request = i,
                           .prompt = prompt_of(6, static_cast<std::uint32_t>(i)),
                           .max_tokens = 2,
                           .priority = static_cast<std::int32_t>(i)})
                   .ok());
  }
  step(replica);
  const Request urgent{.request = 9, .prompt = prompt_of(14, 9), .max_tokens = 2, .priority = 0};
  BOOST_TEST(replica.admit(urgent).ok());
  BOOST_TEST(replica.form_step());
  BOOST_TEST(in_step(replica) == (std::vector<std::uint64_t>{1, 2, 4}), boost::test_tools::per_element());
  replica.run_oldest_step();
  replica.run_until_idle();
  BOOST_TEST(is_due(replica, urgent));
}

BOOST_AUTO_TEST_CASE(nobody_is_preempted_where_it_would_not_be_enough) {
  EngineOptions options = roomy_options(8);
  Replica replica(options);
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(14, 1), .max_tokens = 12, .priority = -5}).ok());
  BOOST_TEST(replica.admit({.request = 2, .prompt = prompt_of(6, 2), .max_tokens = 2, .priority = 5}).ok());
  step(replica);
  BOOST_TEST(replica.admit({.request = 3, .prompt = prompt_of(20, 3), .max_tokens = 2, .priority = 0}).ok());
  BOOST_TEST(replica.form_step());
  BOOST_TEST(in_step(replica) == (std::vector<std::uint64_t>{1, 2}), boost::test_tools::per_element());
  BOOST_TEST(replica.engine.counts().preemptions == 0u);
}

BOOST_AUTO_TEST_CASE(equals_take_nothing_from_each_other) {
  EngineOptions options = roomy_options();
  options.max_batch_sequences = 2;
  Replica replica(options);
  for (std::uint64_t i = 0; i < 30; ++i) {
    const Request request{
        .request = i, .prompt = prompt_of(5, static_cast<std::uint32_t>(i)), .max_tokens = 6, .priority = 3};
    BOOST_TEST(replica.admit(request).ok());
  }
  replica.run_until_idle();
  BOOST_TEST(replica.engine.counts().preemptions == 0u);
  BOOST_TEST(replica.engine.counts().finished == 30u);
}

BOOST_AUTO_TEST_CASE(when_blocks_run_out_the_least_urgent_goes_even_if_it_is_the_oldest) {
  EngineOptions options = roomy_options(4);
  Replica replica(options);
  const Request old{.request = 1, .prompt = prompt_of(7, 1), .max_tokens = 9, .priority = 1};
  const Request urgent{.request = 2, .prompt = prompt_of(6, 2), .max_tokens = 9, .priority = 0};
  BOOST_TEST(replica.admit(old).ok());
  step(replica);
  BOOST_TEST(replica.admit(urgent).ok());
  std::vector<std::uint64_t> ended;
  while (ended.size() < 2) {
    step(replica);
    for (const std::uint64_t request : {1, 2}) {
      const bool is_new = std::find(ended.begin(), ended.end(), request) == ended.end();
      if (is_new && replica.answer(request).finish != FinishReason::NONE) ended.push_back(request);
    }
  }
  BOOST_TEST(ended == (std::vector<std::uint64_t>{2, 1}), boost::test_tools::per_element());
  BOOST_TEST(is_due(replica, old));
  BOOST_TEST(is_due(replica, urgent));
}

BOOST_AUTO_TEST_CASE(the_prompt_of_an_urgent_request_goes_before_the_rest_of_a_less_urgent_one) {
  EngineOptions options = roomy_options();
  options.max_batch_tokens = 8;
  Replica replica(options);
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(40, 1), .max_tokens = 2, .priority = 1}).ok());
  step(replica);
  BOOST_TEST(replica.admit({.request = 2, .prompt = prompt_of(8, 2), .max_tokens = 2, .priority = 0}).ok());
  step(replica);
  BOOST_TEST(replica.answer(2).tokens.size() == 1u);
  BOOST_TEST(replica.engine.counts().preemptions == 0u);
  replica.run_until_idle();
  BOOST_TEST(replica.answer(1).tokens.size() == 2u);
}

BOOST_AUTO_TEST_CASE(a_member_of_a_step_in_flight_is_preempted_only_when_its_step_is_back) {
  EngineOptions options = roomy_options();
  options.max_batch_sequences = 1;
  options.pipeline_stages = 2;
  Replica replica(options);
  for (std::uint64_t i = 1; i <= 2; ++i) {
    BOOST_TEST(replica.admit({.request = i, .prompt = prompt_of(4), .max_tokens = 9, .priority = 2}).ok());
  }
  BOOST_TEST(replica.form_step());
  BOOST_TEST(replica.form_step());
  const Request urgent{.request = 3, .prompt = prompt_of(4, 3), .max_tokens = 9, .priority = 1};
  BOOST_TEST(replica.admit(urgent).ok());
  BOOST_TEST(!replica.form_step());
  replica.run_oldest_step();
  BOOST_TEST(replica.form_step());
  BOOST_TEST(in_step(replica) == (std::vector<std::uint64_t>{3}), boost::test_tools::per_element());
  replica.run_until_idle();
  BOOST_TEST(is_due(replica, urgent));
  BOOST_TEST(replica.engine.counts().finished == 3u);
}

BOOST_AUTO_TEST_SUITE_END()
