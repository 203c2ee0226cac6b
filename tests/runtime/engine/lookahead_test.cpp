#include <boost/test/unit_test.hpp>
#include <functional>

#include "tests/runtime/engine/replica.h"

using namespace troupe;
using namespace troupe::engine;
using namespace troupe::engine::testing;
using schema::FinishReason;

BOOST_TEST_DONT_PRINT_LOG_VALUE(FinishReason)

namespace {

using Numbers = std::vector<std::uint64_t>;

EngineOptions looking_ahead(EngineOptions options = roomy_options()) {
  options.lookahead = true;
  return options;
}

Numbers sequences_of(schema::Step::Reader step) {
  Numbers numbers;
  for (const std::uint64_t sequence : step.getSequences()) numbers.push_back(sequence);
  return numbers;
}

// Whether every token of the step is one that the step before draws.
bool is_ahead(schema::Step::Reader step) {
  for (const std::uint32_t token : step.getTokens()) {
    if (token != schema::SAMPLED_TOKEN) return false;
  }
  return true;
}

std::vector<Request> varied_requests() {
  std::vector<Request> requests;
  for (std::uint32_t i = 0; i < 12; ++i) {
    Request request{.request = i, .prompt = prompt_of(1 + 2 * i % 17, i % 5), .max_tokens = 3 + 2 * i};
    request.sampling.temperature = 0.3F * static_cast<float>(i % 4);
    request.sampling.seed = i;
    if (i % 4 == 1) request.sampling.repetition_penalty = 1.3F;
    if (i % 4 == 2) request.sampling.frequency_penalty = 0.7F;
    request.sampling.logprobs = i % 2 == 0;
    request.sampling.prompt_logprobs = i % 3 == 0;
    if (i % 3 == 1) request.sampling.stop_tokens = {i, 2 * i, 3 * i, 4 * i};
    if (i % 6 == 1) request.sampling.min_tokens = 3;
    requests.push_back(request);
  }
  return requests;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(lookahead)

BOOST_AUTO_TEST_CASE(a_second_step_is_formed_before_the_tokens_of_the_first_are_known) {
  Replica replica(looking_ahead());
  const Request one{.request = 1, .prompt = prompt_of(6), .max_tokens = 8};
  const Request other{.request = 2, .prompt = prompt_of(3, 1), .max_tokens = 8};
  BOOST_REQUIRE(replica.admit(one).ok());
  BOOST_REQUIRE(replica.admit(other).ok());
  BOOST_REQUIRE(replica.form_step());
  BOOST_REQUIRE(replica.form_step());
  BOOST_TEST(replica.engine.steps_in_flight() == 2u);
  BOOST_TEST(is_ahead(replica.newest_step()));
  BOOST_TEST(sequences_of(replica.newest_step()) == (Numbers{1, 2}));
  BOOST_TEST(replica.newest_step().getStartPositions()[0] == 6u);
  BOOST_TEST(replica.newest_step().getStartPositions()[1] == 3u);
  BOOST_TEST(replica.newest_step().getSample()[0]);
  BOOST_TEST(!replica.form_step());  // two are enough

  replica.run_until_idle();
  for (const Request& request : {one, other}) {
    BOOST_TEST(replica.answer(request.request).tokens == expected_tokens(request.prompt, 8, {}, kVocab));
    BOOST_TEST(replica.answer(request.request).deltas == 8u);
  }
  // But for the first, and none is computed in vain where answers end by their length.
  BOOST_TEST(replica.engine.counts().steps == 8u);
  BOOST_TEST(replica.engine.counts().steps_ahead == 7u);
  BOOST_TEST(replica.engine.blocks().free_blocks() == 64u);
}

BOOST_AUTO_TEST_CASE(tokens_and_logprobs_are_those_that_come_without_it) {
  for (const bool overlaps : {false, true}) {
    for (const std::uint32_t guesses : {0u, 6u}) {
      EngineOptions options = roomy_options(24);
      options.max_guesses = guesses;
      Replica with(looking_ahead(options)), without(options);
      with.overlaps = overlaps;
      for (Replica* replica : {&with, &without}) {
        for (const Request& request : varied_requests()) BOOST_REQUIRE(replica->admit(request).ok());
        replica->run_until_idle();
      }
      BOOST_TEST(with.engine.counts().steps_ahead > 10u);
      BOOST_TEST(with.engine.counts().generated_tokens == without.engine.counts().generated_tokens);
      for (const Request& request : varied_requests()) {
        const Answer &one = with.answer(request.request), &two = without.answer(request.request);
        BOOST_TEST(one.tokens == two.tokens);
        BOOST_TEST(one.finish == two.finish);
        BOOST_REQUIRE(one.logprobs.size() == two.logprobs.size());
        for (std::size_t i = 0; i < one.logprobs.size(); ++i) {
          BOOST_TEST(one.logprobs[i].chosen.token == two.logprobs[i].chosen.token);
          BOOST_TEST(one.logprobs[i].chosen.logprob == two.logprobs[i].chosen.logprob);
        }
        BOOST_TEST(one.prompt_logprobs.size() == two.prompt_logprobs.size());
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(an_answer_that_ends_by_its_length_is_in_no_step_behind_its_end) {
  Replica replica(looking_ahead());
  BOOST_REQUIRE(replica.admit({.request = 1, .prompt = prompt_of(6), .max_tokens = 2}).ok());
  BOOST_REQUIRE(replica.admit({.request = 2, .prompt = prompt_of(6, 1), .max_tokens = 4}).ok());
  BOOST_REQUIRE(replica.form_step());
  BOOST_REQUIRE(replica.form_step());
  replica.run_oldest_step();
  BOOST_REQUIRE(replica.form_step());
  BOOST_TEST(sequences_of(replica.newest_step()) == (Numbers{2}));
  replica.run_until_idle();
  BOOST_TEST(replica.answer(1).tokens.size() == 2u);
  BOOST_TEST(replica.answer(2).tokens.size() == 4u);

  // At the end of what the model can hold as well.
  BOOST_REQUIRE(replica.admit({.request = 3, .prompt = prompt_of(60), .max_tokens = 30}).ok());
  replica.run_until_idle();
  BOOST_TEST(replica.answer(3).tokens.size() == 4u);
  BOOST_TEST(replica.answer(3).finish == FinishReason::LENGTH);
}

BOOST_AUTO_TEST_CASE(behind_a_stop_token_a_row_is_computed_in_vain_and_its_blocks_are_kept_until_it_is_back) {
  Replica replica(looking_ahead());
  Request request{.request = 1, .prompt = prompt_of(6), .max_tokens = 20};
  const std::vector<std::uint32_t> free_run = expected_tokens(request.prompt, 20, {}, kVocab);
  const auto stop = std::find_if(free_run.begin() + 1, free_run.end(), [&](std::uint32_t token) {
    return std::count(free_run.begin(), free_run.end(), token) == 1;
  });
  request.sampling.stop_tokens = {*stop};
  BOOST_REQUIRE(replica.admit(request).ok());
  while (replica.answer(1).finish == FinishReason::NONE) {
    while (replica.form_step()) {
    }
    replica.run_oldest_step();
  }
  const auto due = static_cast<std::uint64_t>(stop - free_run.begin()) + 1;
  BOOST_TEST(replica.answer(1).tokens.size() == due);
  BOOST_TEST(replica.answer(1).finish == FinishReason::STOP);
  BOOST_TEST(replica.engine.steps_in_flight() == 1u);
  BOOST_TEST(replica.engine.blocks().free_blocks() < 64u);
  BOOST_TEST(!replica.engine.idle());

  // Its number may be used again at once.
  request.prompt = prompt_of(9, 2);
  replica.answers.clear();
  BOOST_REQUIRE(replica.admit(request).ok());
  replica.run_oldest_step();
  BOOST_TEST(replica.answer(1).deltas == 0u);
  BOOST_TEST(replica.engine.blocks().free_blocks() == 64u);
  replica.run_until_idle();
  BOOST_TEST(replica.answer(1).tokens == expected_tokens(request.prompt, 20, request.sampling, kVocab));
  BOOST_TEST(replica.engine.counts().generated_tokens == due + replica.answer(1).tokens.size());
  BOOST_TEST(replica.engine.counts().finished == 2u);
}

BOOST_AUTO_TEST_CASE(one_that_is_cancelled_with_two_steps_in_flight_is_in_no_third) {
  Replica replica(looking_ahead());
  BOOST_REQUIRE(replica.admit({.request = 1, .prompt = prompt_of(6), .max_tokens = 9}).ok());
  BOOST_REQUIRE(replica.admit({.request = 2, .prompt = prompt_of(6, 1), .max_tokens = 9}).ok());
  BOOST_REQUIRE(replica.form_step());
  BOOST_REQUIRE(replica.form_step());
  replica.engine.cancel(1, 1);
  replica.run_oldest_step();
  BOOST_REQUIRE(replica.form_step());
  BOOST_TEST(sequences_of(replica.newest_step()) == (Numbers{2}));
  BOOST_TEST(replica.engine.counts().running == 2u);
  replica.run_oldest_step();
  BOOST_TEST(replica.engine.counts().running == 1u);
  replica.run_until_idle();
  BOOST_TEST(replica.answer(1).deltas == 0u);
  BOOST_TEST(replica.answer(2).tokens == expected_tokens(prompt_of(6, 1), 9, {}, kVocab));
  BOOST_TEST(replica.engine.blocks().free_blocks() == 64u);
}

BOOST_AUTO_TEST_CASE(nobody_goes_ahead_while_a_request_waits_that_could_begin) {
  EngineOptions options = looking_ahead();
  options.max_batch_sequences = 2;
  Replica replica(options);
  const auto admit = [&](std::uint64_t number, std::uint32_t max_tokens, std::int32_t priority = 0) {
    BOOST_REQUIRE(replica
                      .admit({.request = number,
                              .prompt = prompt_of(4, static_cast<std::uint32_t>(number)),
                              .max_tokens = max_tokens,
                              .priority = priority})
                      .ok());
  };
  admit(1, 20);
  BOOST_REQUIRE(replica.form_step());
  admit(2, 4);
  BOOST_TEST(!replica.form_step());  // it begins with the next step
  replica.run_oldest_step();
  BOOST_REQUIRE(replica.form_step());
  BOOST_TEST(sequences_of(replica.newest_step()) == (Numbers{1, 2}));
  // No slot for a third: the two go on.
  admit(3, 20);
  BOOST_REQUIRE(replica.form_step());
  BOOST_TEST(is_ahead(replica.newest_step()));
  replica.run_oldest_step();
  BOOST_REQUIRE(replica.form_step());
  replica.run_oldest_step();
  // The second ends with the step after this one, and that is waited for.
  BOOST_REQUIRE(replica.form_step());
  BOOST_TEST(sequences_of(replica.newest_step()) == (Numbers{1, 2}));
  replica.run_oldest_step();
  BOOST_TEST(!replica.form_step());
  replica.run_oldest_step();
  BOOST_TEST((replica.answer(2).finish == FinishReason::LENGTH));
  BOOST_REQUIRE(replica.form_step());
  BOOST_TEST(sequences_of(replica.newest_step()) == (Numbers{1, 3}));
  // Somebody more urgent takes a place as soon as there is no step in flight.
  admit(4, 4, -1);
  BOOST_TEST(!replica.form_step());
  replica.run_oldest_step();
  BOOST_REQUIRE(replica.form_step());
  BOOST_TEST(sequences_of(replica.newest_step()) == (Numbers{1, 4}));
  replica.run_until_idle();
  for (const std::uint64_t number : {1, 3}) BOOST_TEST(replica.answer(number).tokens.size() == 20u);
}

BOOST_AUTO_TEST_CASE(a_prompt_in_pieces_is_read_before_anybody_goes_ahead) {
  EngineOptions options = looking_ahead();
  options.max_batch_tokens = 8;
  Replica replica(options);
  BOOST_REQUIRE(replica.admit({.request = 1, .prompt = prompt_of(2), .max_tokens = 20}).ok());
  BOOST_REQUIRE(replica.form_step());
  replica.run_oldest_step();
  BOOST_REQUIRE(replica.admit({.request = 2, .prompt = prompt_of(11, 1)}).ok());
  BOOST_REQUIRE(replica.form_step());
  BOOST_TEST(!replica.form_step());  // 7 of 11
  replica.run_oldest_step();
  BOOST_REQUIRE(replica.form_step());
  BOOST_REQUIRE(replica.form_step());  // all of it: its first token is drawn
  BOOST_TEST(sequences_of(replica.newest_step()) == (Numbers{1, 2}));
}

BOOST_AUTO_TEST_CASE(where_a_block_is_missing_the_result_is_waited_for) {
  EngineOptions options = looking_ahead(roomy_options(4));
  Replica replica(options);
  BOOST_REQUIRE(replica.admit({.request = 1, .prompt = prompt_of(7, 1), .max_tokens = 9}).ok());
  BOOST_REQUIRE(replica.admit({.request = 2, .prompt = prompt_of(6, 2), .max_tokens = 9}).ok());
  replica.overlaps = true;
  replica.run_until_idle();
  BOOST_TEST(replica.engine.counts().preemptions == 1u);
  BOOST_TEST(replica.engine.counts().steps_ahead > 0u);
  BOOST_TEST(replica.answer(1).tokens == expected_tokens(prompt_of(7, 1), 9, {}, kVocab));
  BOOST_TEST(replica.answer(2).tokens == expected_tokens(prompt_of(6, 2), 9, {}, kVocab));
}

BOOST_AUTO_TEST_CASE(a_failed_step_fails_the_one_that_goes_on_from_it) {
  Replica replica(looking_ahead());
  BOOST_REQUIRE(replica.admit({.request = 1, .prompt = prompt_of(5)}).ok());
  BOOST_REQUIRE(replica.form_step());
  BOOST_REQUIRE(replica.form_step());
  capnp::MallocMessageBuilder late;
  auto result = late.initRoot<schema::StepResult>();
  result.setFence(replica.newest_step().getFence());
  replica.fail_oldest_step();
  BOOST_TEST(replica.answer(1).finish == FinishReason::ERROR);
  BOOST_TEST(replica.engine.counts().failed == 1u);
  BOOST_TEST(replica.engine.idle());
  BOOST_TEST(replica.engine.blocks().free_blocks() == 64u);
  BOOST_TEST(replica.engine.apply(result.asReader(), replica.now_ns).empty());
  BOOST_REQUIRE(replica.admit({.request = 2, .prompt = prompt_of(5)}).ok());
  replica.run_until_idle();
  BOOST_TEST(replica.answer(2).tokens == expected_tokens(prompt_of(5), 8, {}, kVocab));
}

BOOST_AUTO_TEST_CASE(a_step_that_fails_behind_a_good_one_takes_no_token_back) {
  Replica replica(looking_ahead());
  BOOST_REQUIRE(replica.admit({.request = 1, .prompt = prompt_of(5)}).ok());
  BOOST_REQUIRE(replica.form_step());
  BOOST_REQUIRE(replica.form_step());
  replica.run_oldest_step();
  replica.fail_oldest_step();
  BOOST_TEST(replica.answer(1).tokens == expected_tokens(prompt_of(5), 1, {}, kVocab));
  BOOST_TEST(replica.answer(1).finish == FinishReason::ERROR);
  BOOST_TEST(replica.engine.blocks().free_blocks() == 64u);
}

BOOST_AUTO_TEST_CASE(what_was_in_a_lost_step_and_in_the_one_behind_it_goes_on_with_the_same_tokens) {
  Replica replica(looking_ahead());
  BOOST_REQUIRE(replica.admit({.request = 1, .prompt = prompt_of(5)}).ok());
  for (std::uint32_t lost = 1; lost < kMostLostSteps; ++lost) {
    BOOST_REQUIRE(replica.form_step());
    replica.run_oldest_step();
    BOOST_REQUIRE(replica.form_step());
    BOOST_REQUIRE(replica.form_step());
    replica.lose_oldest_step();
    BOOST_TEST(replica.engine.steps_in_flight() == 0u);
    BOOST_TEST(replica.answer(1).finish == FinishReason::NONE);
  }
  replica.run_until_idle();
  BOOST_TEST(replica.answer(1).tokens == expected_tokens(prompt_of(5), 8, {}, kVocab));
  BOOST_TEST(replica.engine.blocks().free_blocks() == 64u);
}

BOOST_AUTO_TEST_CASE(a_result_that_overtakes_the_one_it_goes_on_from_fails_its_sequences) {
  Replica replica(looking_ahead());
  BOOST_REQUIRE(replica.admit({.request = 1, .prompt = prompt_of(5)}).ok());
  BOOST_REQUIRE(replica.form_step());
  BOOST_REQUIRE(replica.form_step());
  capnp::MallocMessageBuilder message;
  auto result = message.initRoot<schema::StepResult>();
  result.setFence(replica.newest_step().getFence());
  result.initSequences(1).set(0, 1);
  result.initTokens(1).set(0, 3);
  result.initLogprobs(1);
  replica.take(replica.engine.apply(result.asReader(), replica.now_ns));
  BOOST_TEST(replica.answer(1).finish == FinishReason::ERROR);
  BOOST_TEST((replica.answer(1).error->code == ErrorCode::kInternal));
  BOOST_TEST(replica.engine.steps_in_flight() == 1u);
  replica.run_oldest_step();
  BOOST_TEST(replica.answer(1).tokens.empty());
  BOOST_TEST(replica.engine.blocks().free_blocks() == 64u);
}

BOOST_AUTO_TEST_CASE(a_deadline_ends_what_two_steps_work_on) {
  Replica replica(looking_ahead());
  BOOST_REQUIRE(replica.admit({.request = 1, .prompt = prompt_of(5), .deadline_ms = 1}).ok());
  BOOST_REQUIRE(replica.form_step());
  BOOST_REQUIRE(replica.form_step());
  replica.now_ns += 2'000'000;
  replica.expire();
  BOOST_TEST(replica.answer(1).finish == FinishReason::ERROR);
  replica.run_until_idle();
  BOOST_TEST(replica.answer(1).deltas == 1u);
  BOOST_TEST(replica.engine.idle());
  BOOST_TEST(replica.engine.blocks().free_blocks() == 64u);
}

BOOST_AUTO_TEST_CASE(a_new_epoch_computes_anew_what_two_steps_work_on) {
  Replica replica(looking_ahead());
  BOOST_REQUIRE(replica.admit({.request = 1, .prompt = prompt_of(5)}).ok());
  BOOST_REQUIRE(replica.form_step());
  BOOST_REQUIRE(replica.form_step());
  replica.begin_epoch(2);
  BOOST_TEST(replica.engine.steps_in_flight() == 0u);
  replica.run_until_idle();
  BOOST_TEST(replica.answer(1).tokens == expected_tokens(prompt_of(5), 8, {}, kVocab));
  BOOST_TEST(replica.engine.blocks().free_blocks() == 64u);
}

// A step takes what is between its result and the one before, however early it was sent.
BOOST_AUTO_TEST_CASE(prompts_get_as_much_room_beside_decodes_as_without_it) {
  const auto room = [](bool ahead) {
    EngineOptions options = roomy_options(256);
    options.lookahead = ahead;
    options.limits.decode_stall_percent = 100;
    options.max_batch_tokens = 256;
    options.max_model_len = 256;
    Replica replica(options);
    std::uint32_t taken = 0;  // of the second prompt, first
    replica.on_step = [&](schema::Step::Reader step, const FlatStep&) {
      if (taken == 0 && step.getTokenCounts().size() == 2) taken = step.getTokenCounts()[1];
    };
    const auto run = [&](std::uint64_t ns) {
      while (replica.form_step()) {
      }
      replica.now_ns += ns;
      replica.run_oldest_step();
    };
    BOOST_REQUIRE(replica.admit({.request = 1, .prompt = prompt_of(50), .max_tokens = 100}).ok());
    run(5'000'000);
    for (int i = 0; i < 40; ++i) run(1'000'000);
    BOOST_REQUIRE(replica.admit({.request = 2, .prompt = prompt_of(200, 1), .max_tokens = 4}).ok());
    for (int i = 0; i < 3; ++i) run(1'000'000);
    return taken;
  };
  BOOST_TEST(room(true) == room(false));
  BOOST_TEST(room(true) > 0u);
  BOOST_TEST(room(true) < 30u);
}

BOOST_AUTO_TEST_CASE(guesses_that_pay_are_worth_waiting_for_a_token) {
  const auto run = [](bool ahead, float temperature) {
    EngineOptions options = roomy_options(400);
    options.lookahead = ahead;
    options.max_guesses = 8;
    options.max_model_len = 1'000;
    Replica replica(options);
    BOOST_REQUIRE(
        replica
            .admit(
                {.request = 1, .prompt = prompt_of(20), .max_tokens = 800, .sampling = {{.temperature = temperature}}})
            .ok());
    while (!replica.engine.idle()) {
      while (replica.form_step()) {
      }
      replica.now_ns += 100'000 + 4'000 * replica.oldest_step().getTokens().size();
      replica.run_oldest_step();
    }
    return replica.engine.counts();
  };
  // Text that repeats itself: nearly as few steps as without, and text that does not: nearly all of them ahead.
  const EngineCounts with = run(true, 0), without = run(false, 0), wild = run(true, 2);
  BOOST_TEST(static_cast<double>(with.steps) < 1.1 * static_cast<double>(without.steps));
  BOOST_TEST(with.speculation.accepted > 100u);
  BOOST_TEST(wild.steps_ahead > wild.steps * 3 / 4);
}

BOOST_AUTO_TEST_CASE(where_a_draft_guesses_nobody_goes_ahead_unless_they_want_no_guesses) {
  EngineOptions options = looking_ahead();
  options.max_guesses = 4;
  options.uses_draft = true;
  for (const bool speculates : {true, false}) {
    Replica replica(options);
    BOOST_REQUIRE(replica.admit({.request = 1, .prompt = prompt_of(5), .speculates = speculates}).ok());
    BOOST_REQUIRE(replica.form_step());
    BOOST_TEST(replica.form_step() == !speculates);
  }
}

BOOST_AUTO_TEST_SUITE_END()
