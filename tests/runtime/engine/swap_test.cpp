#include <boost/test/unit_test.hpp>

#include "tests/runtime/engine/replica.h"

using namespace troupe;
using namespace troupe::engine;
using namespace troupe::engine::testing;
using schema::FinishReason;

namespace {

// Two sequences that both begin and of which only one can end: 8 blocks of 4 tokens.
EngineOptions tight(std::uint32_t num_swap_blocks) {
  EngineOptions options = roomy_options(8);
  options.num_swap_blocks = num_swap_blocks;
  options.limits.prefix_cache_blocks = 0;  // what was computed is gone unless it is kept
  return options;
}

Request request_of(std::uint64_t number) {
  return {.request = number, .prompt = prompt_of(10, static_cast<std::uint32_t>(number)), .max_tokens = 16};
}

struct Run {
  Replica replica;
  std::size_t copies = 0;

  explicit Run(const EngineOptions& options) : replica(options) {
    replica.on_step = [this](schema::Step::Reader step, const FlatStep&) { copies += step.getCopies().size(); };
    for (const std::uint64_t number : {1, 2}) BOOST_REQUIRE(replica.admit(request_of(number)).ok());
  }

  void run_until_preempted() {
    while (replica.engine.counts().preemptions == 0) {
      BOOST_REQUIRE(replica.form_step());
      if (replica.engine.counts().preemptions == 0) replica.run_oldest_step();
    }
  }

  void check_answers() {
    for (const std::uint64_t number : {1, 2}) {
      const Request request = request_of(number);
      BOOST_TEST((replica.answer(number).finish == FinishReason::LENGTH));
      BOOST_TEST(replica.answer(number).tokens ==
                 expected_tokens(request.prompt, request.max_tokens, request.sampling, kVocab));
    }
    BOOST_TEST(replica.engine.swap_space().free_blocks() == replica.engine.swap_space().num_blocks());
    BOOST_TEST(replica.engine.blocks().free_blocks() == replica.engine.blocks().num_blocks());
  }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(swap)

BOOST_AUTO_TEST_CASE(what_makes_room_goes_on_with_its_keys_and_values) {
  Run run(tight(8));
  run.replica.run_until_idle();
  run.check_answers();
  const EngineCounts counts = run.replica.engine.counts();
  BOOST_TEST(counts.preemptions > 0u);
  BOOST_TEST(counts.swaps_out == counts.preemptions);
  BOOST_TEST(counts.swaps_in == counts.swaps_out);
  BOOST_TEST(counts.prompt_tokens == 20u);  // none of them twice
  BOOST_TEST(run.copies > 0u);
}

BOOST_AUTO_TEST_CASE(without_room_beside_the_pages_it_is_computed_anew) {
  for (const std::uint32_t blocks : {0u, 1u}) {
    Run run(tight(blocks));
    run.replica.run_until_idle();
    run.check_answers();
    BOOST_TEST(run.replica.engine.counts().preemptions > 0u);
    BOOST_TEST(run.replica.engine.counts().swaps_out == 0u);
    BOOST_TEST(run.replica.engine.counts().prompt_tokens > 20u);
    BOOST_TEST(run.copies == 0u);
  }
}

BOOST_AUTO_TEST_CASE(where_copying_has_shown_to_take_longer_than_computing_it_is_computed_anew) {
  Replica replica(tight(64));
  replica.shard.copy_ns = 1'000'000;
  replica.on_step = [&](schema::Step::Reader step, const FlatStep&) {
    replica.now_ns += 1'000 + replica.shard.copy_ns * step.getCopies().size();
  };
  for (std::uint64_t number = 0; number < 6; ++number) BOOST_REQUIRE(replica.admit(request_of(number)).ok());
  replica.run_until_idle();
  BOOST_TEST(replica.engine.counts().preemptions > 1u);
  BOOST_TEST(replica.engine.counts().swaps_out == 1u);
  for (std::uint64_t number = 0; number < 6; ++number) {
    const Request request = request_of(number);
    BOOST_TEST(replica.answer(number).tokens ==
               expected_tokens(request.prompt, request.max_tokens, request.sampling, kVocab));
  }
}

BOOST_AUTO_TEST_CASE(a_step_that_fails_keeps_nothing) {
  Run run(tight(8));
  run.run_until_preempted();
  BOOST_REQUIRE(run.replica.engine.counts().swaps_out == 1u);
  BOOST_TEST(run.replica.engine.swap_space().free_blocks() < 8u);
  run.replica.fail_oldest_step();
  BOOST_TEST(run.replica.engine.swap_space().free_blocks() == 8u);
  BOOST_TEST((run.replica.answer(1).finish == FinishReason::ERROR));
  run.replica.run_until_idle();
  const Request request = request_of(2);
  BOOST_TEST(run.replica.answer(2).tokens ==
             expected_tokens(request.prompt, request.max_tokens, request.sampling, kVocab));
  BOOST_TEST(run.replica.engine.counts().swaps_in == 0u);
}

BOOST_AUTO_TEST_CASE(an_epoch_knows_nothing_of_what_was_kept_in_the_one_before) {
  Run run(tight(8));
  run.run_until_preempted();
  run.replica.run_oldest_step();
  BOOST_TEST(run.replica.engine.swap_space().free_blocks() < 8u);
  run.replica.begin_epoch(2);
  BOOST_TEST(run.replica.engine.swap_space().free_blocks() == 8u);
  run.replica.run_until_idle();
  run.check_answers();
}

BOOST_AUTO_TEST_CASE(who_is_cancelled_while_it_waits_gives_its_room_back) {
  Run run(tight(8));
  run.run_until_preempted();
  run.replica.run_oldest_step();
  run.replica.engine.cancel(1, 2);
  BOOST_TEST(run.replica.engine.swap_space().free_blocks() == 8u);
  run.replica.run_until_idle();
  BOOST_TEST((run.replica.answer(1).finish == FinishReason::LENGTH));
}

BOOST_AUTO_TEST_CASE(what_others_hold_too_is_not_copied) {
  EngineOptions options = roomy_options(11);
  options.num_swap_blocks = 16;
  Replica replica(options);
  std::size_t copies = 0;
  replica.on_step = [&](schema::Step::Reader step, const FlatStep&) {
    for (const auto copy : step.getCopies()) {
      if (copy.getTo() >= options.num_blocks) ++copies;
    }
  };
  // 16 tokens of prompt in common, then 1 of their own.
  for (const std::uint64_t number : {1, 2}) {
    Request request{.request = number, .prompt = prompt_of(16), .max_tokens = 20};
    request.prompt.push_back(static_cast<std::uint32_t>(number));
    BOOST_REQUIRE(replica.admit(request).ok());
  }
  replica.run_until_idle();
  for (const std::uint64_t number : {1, 2}) {
    std::vector<std::uint32_t> prompt = prompt_of(16);
    prompt.push_back(static_cast<std::uint32_t>(number));
    BOOST_TEST(replica.answer(number).tokens == expected_tokens(prompt, 20, {}, kVocab));
  }
  BOOST_TEST(replica.engine.counts().swaps_out == 1u);
  BOOST_TEST(copies > 0u);
  BOOST_TEST(copies <= 3u);  // of the at most 7 blocks that it had
}

BOOST_AUTO_TEST_CASE(of_several_answers_to_one_prompt_each_but_the_first_computes_one_token_of_it) {
  Replica replica(roomy_options());
  for (std::uint64_t number = 0; number < 5; ++number) {
    Request request{.request = number, .prompt = prompt_of(23), .max_tokens = 6};
    request.sampling.temperature = 1;
    request.sampling.seed = number;
    BOOST_REQUIRE(replica.admit(request).ok());
  }
  replica.run_until_idle();
  BOOST_TEST(replica.engine.counts().prompt_tokens == 23u + 4u);
  for (std::uint64_t number = 0; number < 5; ++number) {
    SamplingParameters sampling;
    sampling.temperature = 1;
    sampling.seed = number;
    BOOST_TEST(replica.answer(number).tokens == expected_tokens(prompt_of(23), 6, sampling, kVocab));
    BOOST_TEST(replica.answer(number).cached_tokens == (number == 0 ? 0u : 22u));
  }
}

BOOST_AUTO_TEST_CASE(of_another_salt_nothing_is_copied) {
  Replica replica(roomy_options());
  BOOST_REQUIRE(replica.admit({.request = 1, .prompt = prompt_of(23), .max_tokens = 12, .cache_salt = "a"}).ok());
  BOOST_REQUIRE(replica.form_step());
  replica.run_oldest_step();
  BOOST_REQUIRE(replica.admit({.request = 2, .prompt = prompt_of(23), .max_tokens = 3, .cache_salt = "b"}).ok());
  replica.run_until_idle();
  BOOST_TEST(replica.answer(2).cached_tokens == 0u);
  BOOST_TEST(replica.engine.counts().prompt_tokens == 46u);
}

BOOST_AUTO_TEST_SUITE_END()
