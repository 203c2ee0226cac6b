#include "runtime/engine/engine.h"

#include <boost/test/unit_test.hpp>
#include <cmath>

#include "runtime/engine/error_info.h"
#include "tests/runtime/engine/replica.h"

using namespace troupe;
using namespace troupe::engine;
using namespace troupe::engine::testing;
using schema::FinishReason;

BOOST_TEST_DONT_PRINT_LOG_VALUE(FinishReason)

BOOST_AUTO_TEST_SUITE(engine_suite)

BOOST_AUTO_TEST_CASE(a_request_is_answered_token_by_token_until_its_length) {
  Replica replica(roomy_options());
  const Request request{.request = 5, .prompt = prompt_of(6), .max_tokens = 7};
  BOOST_TEST(replica.admit(request).ok());
  replica.run_until_idle();
  const Answer& answer = replica.answer(5);
  BOOST_TEST(answer.tokens == expected_tokens(request.prompt, 7, {}, kVocab));
  BOOST_TEST(answer.finish == FinishReason::LENGTH);
  BOOST_TEST(answer.deltas == 7u);
  BOOST_TEST(replica.engine.idle());
  BOOST_TEST(replica.engine.blocks().free_blocks() == 64u);
}

BOOST_AUTO_TEST_CASE(a_stop_token_is_reported_and_ends_the_answer_but_not_before_min_tokens) {
  Request request{.request = 1, .prompt = prompt_of(3), .max_tokens = 20};
  const std::vector<std::uint32_t> free_run = expected_tokens(request.prompt, 20, {}, kVocab);
  request.sampling.stop_tokens = {free_run[4], 1'000};
  Replica replica(roomy_options());
  BOOST_TEST(replica.admit(request).ok());
  request.request = 2;
  request.sampling.min_tokens = 10;
  BOOST_TEST(replica.admit(request).ok());
  replica.run_until_idle();

  const Answer& stopped = replica.answer(1);
  BOOST_TEST(stopped.finish == FinishReason::STOP);
  BOOST_TEST(stopped.tokens.back() == free_run[4]);
  BOOST_TEST(stopped.tokens.size() <= 5u);
  const Answer& held = replica.answer(2);
  BOOST_TEST(held.tokens == expected_tokens(request.prompt, 20, request.sampling, kVocab));
  BOOST_TEST(held.tokens.size() > 10u);
  for (std::size_t i = 0; i < 10; ++i) BOOST_TEST(held.tokens[i] != free_run[4]);
}

BOOST_AUTO_TEST_CASE(a_request_gives_the_same_tokens_alone_and_in_a_full_batch_under_shortage) {
  std::vector<Request> requests;
  for (std::uint32_t i = 0; i < 12; ++i) {
    Request request{.request = i, .prompt = prompt_of(1 + 2 * i % 17, i), .max_tokens = 5 + i};
    request.sampling = {
        {.temperature = 0.5F + 0.1F * i, .top_k = i % 3 * 5, .top_p = i % 2 == 0 ? 1 : 0.8F, .seed = i}};
    if (i % 4 == 1) request.sampling.repetition_penalty = 1.3F;
    if (i % 4 == 2) request.sampling.frequency_penalty = 0.7F;
    requests.push_back(request);
  }
  Replica crowd(tight_options());
  for (const Request& request : requests) BOOST_TEST(crowd.admit(request).ok());
  crowd.run_until_idle();
  BOOST_TEST(crowd.engine.counts().preemptions > 0u);
  for (const Request& request : requests) {
    Replica alone(roomy_options());
    BOOST_TEST(alone.admit(request).ok());
    alone.run_until_idle();
    BOOST_TEST(crowd.answer(request.request).tokens == alone.answer(request.request).tokens);
    BOOST_TEST(alone.answer(request.request).tokens ==
               expected_tokens(request.prompt, request.max_tokens, request.sampling, kVocab));
  }
}

BOOST_AUTO_TEST_CASE(max_tokens_is_clipped_to_the_model_and_the_pages) {
  Replica by_model(roomy_options());
  BOOST_TEST(by_model.admit({.request = 1, .prompt = prompt_of(60), .max_tokens = 4'000'000'000}).ok());
  by_model.run_until_idle();
  BOOST_TEST(by_model.answer(1).tokens.size() == 4u);
  BOOST_TEST(by_model.answer(1).finish == FinishReason::LENGTH);

  EngineOptions few_pages = roomy_options();
  few_pages.num_blocks = 3;
  Replica by_pages(few_pages);
  BOOST_TEST(by_pages.admit({.request = 1, .prompt = prompt_of(7), .max_tokens = 50}).ok());
  by_pages.run_until_idle();
  BOOST_TEST(by_pages.answer(1).tokens.size() == 5u);
}

BOOST_AUTO_TEST_CASE(a_request_that_can_never_run_is_refused_with_its_parameter) {
  EngineOptions options = roomy_options();
  options.num_blocks = 3;
  Replica replica(options);
  const auto refused = [&](const Request& request) { return replica.admit(request).error(); };
  BOOST_TEST(refused({.prompt = {}}).param == "prompt");
  BOOST_TEST(refused({.prompt = prompt_of(12)}).param == "prompt");
  BOOST_TEST(refused({.prompt = prompt_of(12)}).message.find("kv_memory") != std::string::npos);
  BOOST_TEST(refused({.prompt = prompt_of(2), .sampling = {{.temperature = -1}}}).param == "temperature");
  BOOST_TEST(refused({.prompt = prompt_of(2), .max_tokens = 3, .sampling = {.min_tokens = 4}}).param == "min_tokens");
  const std::vector<std::uint32_t> many(300, 1);
  BOOST_TEST(refused({.prompt = prompt_of(2), .sampling = {.stop_tokens = many}}).param == "stop_token_ids");
  Replica large(roomy_options());
  BOOST_TEST(large.admit({.prompt = prompt_of(64)}).error().message.find("max_model_len") != std::string::npos);
  BOOST_TEST(replica.engine.idle());
  BOOST_TEST(replica.admit({.request = 9, .prompt = prompt_of(12), .max_tokens = 0}).ok());
}

BOOST_AUTO_TEST_CASE(a_full_queue_refuses_by_the_name_of_its_limit) {
  EngineOptions options = roomy_options();
  options.limits.queue = 2;
  Replica replica(options);
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(2)}).ok());
  BOOST_TEST(replica.admit({.request = 2, .prompt = prompt_of(2)}).ok());
  const Result<void> third = replica.admit({.request = 3, .prompt = prompt_of(2)});
  BOOST_TEST((third.error().code == ErrorCode::kResourceExhausted));
  BOOST_TEST(third.error().param == "queue");
  BOOST_TEST(replica.form_step());
  BOOST_TEST(replica.admit({.request = 3, .prompt = prompt_of(2)}).ok());
}

BOOST_AUTO_TEST_CASE(a_request_number_in_use_is_refused_but_owners_number_for_themselves) {
  Replica replica(roomy_options());
  BOOST_TEST(replica.admit({.owner = 1, .request = 1, .prompt = prompt_of(2)}).ok());
  BOOST_TEST(!replica.admit({.owner = 1, .request = 1, .prompt = prompt_of(2)}).ok());
  BOOST_TEST(replica.admit({.owner = 2, .request = 1, .prompt = prompt_of(3)}).ok());
  replica.run_until_idle();
  BOOST_TEST(replica.answer(1, 1).tokens.size() == 8u);
  BOOST_TEST(replica.answer(1, 2).tokens.size() == 8u);
  BOOST_TEST(replica.admit({.owner = 3, .request = 1, .prompt = prompt_of(2)}).ok());
}

BOOST_AUTO_TEST_CASE(a_prompt_goes_in_pieces_and_its_logprobs_come_whole_before_the_first_token) {
  EngineOptions options = roomy_options();
  options.max_batch_tokens = 5;
  Replica replica(options);
  Request request{.request = 1, .prompt = prompt_of(17), .max_tokens = 3};
  request.sampling = {{.logprobs = true, .top_logprobs = 2}};
  request.sampling.prompt_logprobs = true;
  BOOST_TEST(replica.admit(request).ok());
  replica.run_until_idle();
  const Answer& answer = replica.answer(1);
  BOOST_TEST(answer.tokens == expected_tokens(request.prompt, 3, request.sampling, kVocab));
  BOOST_REQUIRE(answer.prompt_logprobs.size() == 16u);
  BOOST_REQUIRE(answer.logprobs.size() == 3u);
  BOOST_TEST(replica.engine.counts().steps == 6u);  // 5 + 5 + 5 + 2, and two decodes
  for (std::size_t i = 0; i < 16; ++i) {
    Sampler sampler;
    RatedToken expected;
    sampler.rate(fake_logits(std::span(request.prompt).first(i + 1), kVocab), request.prompt[i + 1], 2, expected);
    BOOST_TEST(answer.prompt_logprobs[i].chosen.token == request.prompt[i + 1]);
    BOOST_TEST(answer.prompt_logprobs[i].chosen.logprob == expected.chosen.logprob);
    BOOST_TEST(answer.prompt_logprobs[i].top[1].token == expected.top[1].token);
  }
}

BOOST_AUTO_TEST_CASE(scoring_reads_the_prompt_and_generates_nothing) {
  EngineOptions options = roomy_options();
  options.max_batch_tokens = 4;
  Replica replica(options);
  Request request{.request = 1, .prompt = prompt_of(11), .max_tokens = 0};
  request.sampling.prompt_logprobs = true;
  BOOST_TEST(replica.admit(request).ok());
  BOOST_TEST(replica.admit({.request = 2, .prompt = prompt_of(1), .max_tokens = 0}).ok());
  replica.run_until_idle();
  BOOST_TEST(replica.answer(1).prompt_logprobs.size() == 10u);
  BOOST_TEST(replica.answer(1).tokens.empty());
  BOOST_TEST(replica.answer(1).deltas == 1u);
  BOOST_TEST(replica.answer(1).finish == FinishReason::LENGTH);
  BOOST_TEST(replica.answer(2).finish == FinishReason::LENGTH);
}

BOOST_AUTO_TEST_CASE(tokens_that_nobody_asked_to_rate_carry_no_logprobs) {
  Replica replica(roomy_options());
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(4)}).ok());
  replica.run_until_idle();
  BOOST_TEST(replica.answer(1).logprobs.empty());
  BOOST_TEST(replica.answer(1).prompt_logprobs.empty());
}

BOOST_AUTO_TEST_CASE(a_cancelled_request_gives_its_blocks_back_at_once_or_when_its_step_is_back) {
  Replica replica(roomy_options());
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(9)}).ok());
  BOOST_TEST(replica.admit({.request = 2, .prompt = prompt_of(9)}).ok());
  replica.engine.cancel(1, 2);
  BOOST_TEST(replica.form_step());
  BOOST_TEST(replica.newest_step().getSequences().size() == 1u);
  replica.engine.cancel(1, 1);
  replica.engine.cancel(1, 1);
  replica.engine.cancel(7, 7);
  BOOST_TEST(replica.engine.blocks().free_blocks() == 61u);
  replica.run_oldest_step();
  BOOST_TEST(replica.engine.blocks().free_blocks() == 64u);
  BOOST_TEST(replica.engine.idle());
  BOOST_TEST(replica.answers.empty());
  BOOST_TEST(replica.engine.counts().cancelled == 2u);

  // The shard hears of it with the next step.
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(2)}).ok());
  BOOST_TEST(replica.form_step());
  BOOST_TEST(replica.newest_step().getReleased().size() == 1u);
  replica.run_oldest_step();
  BOOST_TEST(replica.shard.sequences.size() == 1u);
}

BOOST_AUTO_TEST_CASE(an_owner_that_is_gone_takes_all_its_requests_along) {
  Replica replica(roomy_options());
  for (std::uint64_t request = 0; request < 4; ++request) {
    BOOST_TEST(replica.admit({.owner = 1 + request % 2, .request = request, .prompt = prompt_of(3)}).ok());
  }
  BOOST_TEST(replica.form_step());
  replica.engine.cancel_all(1);
  replica.run_oldest_step();
  replica.run_until_idle();
  BOOST_TEST(replica.answers.size() == 2u);
  BOOST_TEST(replica.answer(1, 2).tokens.size() == 8u);
  BOOST_TEST(replica.answer(3, 2).tokens.size() == 8u);
}

BOOST_AUTO_TEST_CASE(every_pipeline_slot_gets_a_share_of_the_sequences) {
  EngineOptions options = roomy_options();
  options.pipeline_stages = 3;
  Replica replica(options);
  for (std::uint64_t request = 0; request < 6; ++request) {
    BOOST_TEST(replica.admit({.request = request, .prompt = prompt_of(2), .max_tokens = 20}).ok());
  }
  for (int turn = 0; turn < 10; ++turn) {
    while (replica.form_step()) BOOST_TEST(replica.newest_step().getSequences().size() == 2u);
    BOOST_TEST(replica.engine.steps_in_flight() == 3u);
    replica.run_oldest_step();
  }
}

BOOST_AUTO_TEST_CASE(decodes_run_before_prefills_and_those_before_newcomers) {
  EngineOptions options = roomy_options();
  options.max_batch_tokens = 8;
  Replica replica(options);
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(2)}).ok());
  BOOST_TEST(replica.form_step());
  replica.run_oldest_step();
  BOOST_TEST(replica.admit({.request = 2, .prompt = prompt_of(11, 1)}).ok());
  BOOST_TEST(replica.admit({.request = 3, .prompt = prompt_of(4, 2)}).ok());
  BOOST_TEST(replica.form_step());
  // One decode, and the first seven tokens of the second prompt.
  BOOST_TEST(replica.newest_step().getSequences().size() == 2u);
  BOOST_TEST(replica.newest_step().getTokenCounts()[0] == 1u);
  BOOST_TEST(replica.newest_step().getTokenCounts()[1] == 7u);
  BOOST_TEST(!replica.newest_step().getSample()[1]);
  replica.run_oldest_step();
  BOOST_TEST(replica.form_step());
  BOOST_TEST(replica.newest_step().getSequences().size() == 3u);
  BOOST_TEST(replica.newest_step().getTokenCounts()[1] == 4u);
  BOOST_TEST(replica.newest_step().getTokenCounts()[2] == 3u);
}

BOOST_AUTO_TEST_CASE(when_blocks_run_out_the_youngest_is_computed_anew_later) {
  EngineOptions options = roomy_options();
  options.num_blocks = 4;
  Replica replica(options);
  const Request old{.request = 1, .prompt = prompt_of(7, 1), .max_tokens = 9};
  const Request young{.request = 2, .prompt = prompt_of(6, 2), .max_tokens = 9};
  BOOST_TEST(replica.admit(old).ok());
  BOOST_TEST(replica.admit(young).ok());
  replica.run_until_idle();
  BOOST_TEST(replica.engine.counts().preemptions == 1u);
  BOOST_TEST(replica.answer(1).tokens == expected_tokens(old.prompt, 9, {}, kVocab));
  BOOST_TEST(replica.answer(2).tokens == expected_tokens(young.prompt, 9, {}, kVocab));
}

BOOST_AUTO_TEST_CASE(a_failed_step_fails_its_sequences_and_nobody_else) {
  EngineOptions options = roomy_options();
  options.pipeline_stages = 2;
  Replica replica(options);
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(5)}).ok());
  BOOST_TEST(replica.admit({.request = 2, .prompt = prompt_of(5, 1)}).ok());
  BOOST_TEST(replica.form_step());
  BOOST_TEST(replica.form_step());
  replica.fail_oldest_step();
  BOOST_TEST(replica.answer(1).finish == FinishReason::ERROR);
  BOOST_TEST((replica.answer(1).error->code == ErrorCode::kCorruptData));
  replica.run_until_idle();
  BOOST_TEST(replica.answer(2).tokens == expected_tokens(prompt_of(5, 1), 8, {}, kVocab));
  BOOST_TEST(replica.engine.blocks().free_blocks() == 64u);
}

BOOST_AUTO_TEST_CASE(what_was_in_a_step_that_a_member_lost_goes_on_with_the_same_tokens) {
  Replica replica(roomy_options());
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(5)}).ok());
  for (int step = 0; step < 3; ++step) {
    BOOST_TEST(replica.form_step());
    replica.run_oldest_step();
  }
  BOOST_TEST(replica.form_step());
  replica.lose_oldest_step();
  BOOST_TEST(replica.answer(1).tokens.size() == 3u);
  BOOST_TEST(replica.answer(1).finish == FinishReason::NONE);
  replica.run_until_idle();
  BOOST_TEST(replica.answer(1).tokens == expected_tokens(prompt_of(5), 8, {}, kVocab));
  BOOST_TEST(replica.answer(1).finish == FinishReason::LENGTH);
  BOOST_TEST(replica.engine.blocks().free_blocks() == 64u);
  BOOST_TEST(replica.shard.sequences.size() == 1u);  // that it ends, the next step tells
}

BOOST_AUTO_TEST_CASE(what_ends_the_members_again_and_again_fails) {
  Replica replica(roomy_options());
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(5)}).ok());
  for (std::uint64_t lost = 1; lost <= kMostLostSteps; ++lost) {
    BOOST_TEST(replica.answer(1).finish == FinishReason::NONE);
    BOOST_TEST(replica.form_step());
    if (lost % 2 == 0) {
      replica.begin_epoch(1 + lost);
    } else {
      replica.lose_oldest_step();
    }
  }
  BOOST_TEST(replica.answer(1).finish == FinishReason::ERROR);
  BOOST_TEST((replica.answer(1).error->code == ErrorCode::kUnavailable));
  BOOST_TEST(replica.engine.idle());
}

BOOST_AUTO_TEST_CASE(who_is_cancelled_in_a_step_that_is_lost_is_forgotten) {
  Replica replica(roomy_options());
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(5)}).ok());
  BOOST_TEST(replica.form_step());
  replica.engine.cancel(1, 1);
  replica.lose_oldest_step();
  BOOST_TEST(replica.engine.idle());
  BOOST_TEST(replica.engine.blocks().free_blocks() == 64u);
}

BOOST_AUTO_TEST_CASE(what_a_failed_step_released_is_released_again) {
  Replica replica(roomy_options());
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(5), .max_tokens = 1}).ok());
  replica.run_until_idle();
  BOOST_TEST(replica.shard.sequences.size() == 1u);
  BOOST_TEST(replica.admit({.request = 2, .prompt = prompt_of(5)}).ok());
  BOOST_TEST(replica.form_step());
  replica.fail_oldest_step();
  BOOST_TEST(replica.admit({.request = 3, .prompt = prompt_of(5)}).ok());
  BOOST_TEST(replica.form_step());
  BOOST_TEST(replica.newest_step().getReleased().size() == 2u);
  replica.run_oldest_step();
  BOOST_TEST(replica.shard.sequences.size() == 1u);
}

BOOST_AUTO_TEST_CASE(a_new_epoch_computes_anew_what_is_in_flight_and_keeps_what_waits) {
  EngineOptions options = roomy_options();
  options.max_batch_sequences = 1;
  Replica replica(options);
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(5)}).ok());
  BOOST_TEST(replica.admit({.request = 2, .prompt = prompt_of(5, 1)}).ok());
  BOOST_TEST(replica.form_step());
  replica.begin_epoch(2);
  BOOST_TEST(replica.form_step());
  BOOST_TEST(replica.newest_step().getFence().getEpoch() == 2u);
  BOOST_TEST(replica.newest_step().getFence().getStep() == 1u);
  BOOST_TEST(replica.newest_step().getReleased().size() == 0u);
  replica.run_until_idle();
  BOOST_TEST(replica.answer(1).tokens == expected_tokens(prompt_of(5), 8, {}, kVocab));
  BOOST_TEST(replica.answer(2).tokens == expected_tokens(prompt_of(5, 1), 8, {}, kVocab));
}

BOOST_AUTO_TEST_CASE(a_sequence_between_two_steps_survives_a_new_epoch_by_recomputation) {
  Replica replica(roomy_options());
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(5)}).ok());
  for (int step = 0; step < 3; ++step) {
    BOOST_TEST(replica.form_step());
    replica.run_oldest_step();
  }
  replica.begin_epoch(2);
  replica.run_until_idle();
  BOOST_TEST(replica.answer(1).tokens == expected_tokens(prompt_of(5), 8, {}, kVocab));
}

BOOST_AUTO_TEST_CASE(results_of_an_old_epoch_or_an_unknown_step_change_nothing) {
  Replica replica(roomy_options());
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(5)}).ok());
  BOOST_TEST(replica.form_step());
  const auto stale = [&](std::uint32_t in_replica, std::uint64_t epoch, std::uint64_t step) {
    capnp::MallocMessageBuilder message;
    auto result = message.initRoot<schema::StepResult>();
    result.initFence().setReplica(in_replica);
    result.getFence().setEpoch(epoch);
    result.getFence().setStep(step);
    result.setFailed(true);
    return replica.engine.apply(result.asReader(), replica.now_ns);
  };
  BOOST_TEST(stale(0, 0, 1).empty());
  BOOST_TEST(stale(1, 1, 1).empty());
  BOOST_TEST(stale(0, 1, 2).empty());
  BOOST_TEST(replica.engine.steps_in_flight() == 1u);
  BOOST_TEST(stale(0, 1, 1).size() == 1u);
}

BOOST_AUTO_TEST_CASE(a_result_that_does_not_match_its_step_fails_it) {
  const auto broken = [](auto break_it) {
    Replica replica(roomy_options());
    Request request{.request = 1, .prompt = prompt_of(5)};
    request.sampling.prompt_logprobs = true;
    BOOST_TEST(replica.admit(request).ok());
    BOOST_TEST(replica.form_step());
    capnp::MallocMessageBuilder message;
    auto result = message.initRoot<schema::StepResult>();
    replica.shard.run(replica.newest_step(), result);
    BOOST_REQUIRE(!result.getFailed());
    break_it(result);
    replica.take(replica.engine.apply(result.asReader(), replica.now_ns));
    BOOST_TEST(replica.answer(1).finish == FinishReason::ERROR);
    BOOST_TEST((replica.answer(1).error->code == ErrorCode::kInternal));
    BOOST_TEST(replica.engine.blocks().free_blocks() == 64u);
  };
  broken([](schema::StepResult::Builder result) { result.initTokens(0); });
  broken([](schema::StepResult::Builder result) { result.initLogprobs(2); });
  broken([](schema::StepResult::Builder result) { result.initSequences(1).set(0, 99); });
  broken([](schema::StepResult::Builder result) {
    result.initSequences(0);
    result.initTokens(0);
    result.initLogprobs(0);
  });
  broken([](schema::StepResult::Builder result) { result.getPromptLogprobs()[0].setFirstPosition(3); });
  broken([](schema::StepResult::Builder result) { result.getPromptLogprobs()[0].setSequence(3); });
  broken([](schema::StepResult::Builder result) { result.getPromptLogprobs()[0].initItems(9); });
}

BOOST_AUTO_TEST_CASE(requests_that_waited_too_long_can_be_failed) {
  Replica replica(roomy_options());
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(5)}).ok());
  replica.now_ns = 5'000;
  BOOST_TEST(replica.admit({.request = 2, .prompt = prompt_of(5)}).ok());
  BOOST_TEST(replica.engine.oldest_waiting_ns().value() == 1'000u);
  replica.take(replica.engine.fail_waiting(unavailable("no stage"), 5'000));
  BOOST_TEST(replica.answers.size() == 1u);
  BOOST_TEST(replica.answer(1).finish == FinishReason::ERROR);
  BOOST_TEST(replica.engine.oldest_waiting_ns().value() == 5'000u);
}

BOOST_AUTO_TEST_CASE(the_first_token_tells_how_long_the_request_waited) {
  Replica replica(roomy_options());
  replica.now_ns = 1'000;
  BOOST_TEST(replica.admit({.request = 1, .prompt = prompt_of(5), .max_tokens = 2}).ok());
  replica.now_ns = 4'000;
  replica.run_until_idle();
  BOOST_TEST(replica.answer(1).queue_ns == 3'000u);
}

BOOST_AUTO_TEST_CASE(an_error_survives_its_way_through_a_message) {
  capnp::MallocMessageBuilder message;
  auto info = message.initRoot<schema::ErrorInfo>();
  write_error(resource_exhausted("full", "queue"), info);
  const Error error = read_error(info.asReader());
  BOOST_TEST((error.code == ErrorCode::kResourceExhausted));
  BOOST_TEST(error.message == "full");
  BOOST_TEST(error.param == "queue");
}

BOOST_AUTO_TEST_SUITE_END()
