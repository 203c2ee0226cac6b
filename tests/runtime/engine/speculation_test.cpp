#include "runtime/engine/speculation.h"

#include <boost/test/unit_test.hpp>
#include <functional>

#include "tests/runtime/engine/replica.h"

using namespace troupe;
using namespace troupe::engine;
using namespace troupe::engine::testing;
using schema::FinishReason;

BOOST_TEST_DONT_PRINT_LOG_VALUE(FinishReason)

namespace {

EngineOptions guessing(EngineOptions options, std::uint32_t max_guesses = 6) {
  options.max_guesses = max_guesses;
  return options;
}

// Runs everything; a step takes `ns` of its rows. Returns the time.
std::uint64_t run_timed(Replica& replica, const std::function<std::uint64_t(std::uint32_t rows)>& ns) {
  const std::uint64_t start = replica.now_ns;
  while (replica.form_step()) {
    replica.now_ns += ns(replica.newest_step().getTokens().size());
    replica.run_oldest_step();
  }
  return replica.now_ns - start;
}

std::uint64_t memory_bound(std::uint32_t rows) { return 100'000 + 4'000 * rows; }
std::uint64_t compute_bound(std::uint32_t rows) { return 2'000 + 50'000 * rows; }

std::vector<Request> varied_requests() {
  std::vector<Request> requests;
  for (std::uint32_t i = 0; i < 16; ++i) {
    Request request{.request = i, .prompt = prompt_of(1 + 2 * i % 17, i % 5), .max_tokens = 20 + i};
    request.sampling.temperature = i % 3 == 0 ? 0 : 0.2F * static_cast<float>(i % 4);
    request.sampling.top_k = i % 5 == 1 ? 4 : 0;
    request.sampling.top_p = i % 5 == 2 ? 0.8F : 1;
    request.sampling.seed = i;
    if (i % 4 == 1) request.sampling.repetition_penalty = 1.1F;
    if (i % 4 == 2) request.sampling.frequency_penalty = 0.1F;
    if (i % 4 == 3) request.sampling.presence_penalty = 0.2F;
    request.sampling.logprobs = i % 2 == 0;
    request.sampling.top_logprobs = i % 2 == 0 ? 2 : 0;
    if (i % 3 == 1) request.sampling.stop_tokens = {i, 2 * i, 3 * i};
    if (i % 6 == 1) request.sampling.min_tokens = 12;
    requests.push_back(request);
  }
  return requests;
}

// Every request gives the tokens and logprobs that it gives without guesses, and guesses came true.
void check_identity(const EngineOptions& options) {
  Replica with(guessing(options)), without(options);
  for (Replica* replica : {&with, &without}) {
    for (const Request& request : varied_requests()) BOOST_REQUIRE(replica->admit(request).ok());
    replica->run_until_idle();
  }
  BOOST_TEST(with.engine.counts().speculation.accepted > 20u);
  BOOST_TEST(with.engine.counts().speculation.accepted < with.engine.counts().speculation.proposed);
  BOOST_TEST(with.engine.counts().steps < without.engine.counts().steps);
  BOOST_TEST(with.engine.counts().generated_tokens == without.engine.counts().generated_tokens);
  for (const Request& request : varied_requests()) {
    const Answer& one = with.answer(request.request);
    const Answer& other = without.answer(request.request);
    BOOST_TEST(one.tokens == other.tokens);
    BOOST_TEST(one.finish == other.finish);
    BOOST_REQUIRE(one.logprobs.size() == other.logprobs.size());
    for (std::size_t i = 0; i < one.logprobs.size(); ++i) {
      BOOST_TEST(one.logprobs[i].chosen.token == other.tokens[i]);
      BOOST_TEST(one.logprobs[i].chosen.logprob == other.logprobs[i].chosen.logprob);
      BOOST_TEST(one.logprobs[i].top[1].token == other.logprobs[i].top[1].token);
    }
  }
  BOOST_TEST(with.engine.blocks().free_blocks() == options.num_blocks);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(speculation)

BOOST_AUTO_TEST_CASE(guesses_change_nothing_but_the_number_of_steps) {
  EngineOptions options = roomy_options(200);
  options.max_model_len = 80;
  check_identity(options);
}

BOOST_AUTO_TEST_CASE(guesses_change_nothing_in_a_pipeline_of_three_stages) {
  EngineOptions options = roomy_options(200);
  options.max_model_len = 80;
  options.pipeline_stages = 3;
  check_identity(options);
}

BOOST_AUTO_TEST_CASE(guesses_change_nothing_under_preemption_and_with_prompts_in_pieces) {
  EngineOptions options = tight_options();
  options.max_model_len = 48;
  options.pipeline_stages = 1;
  Replica with(guessing(options));
  for (const Request& request : varied_requests()) BOOST_REQUIRE(with.admit(request).ok());
  with.run_until_idle();
  BOOST_TEST(with.engine.counts().preemptions > 0u);
  BOOST_TEST(with.engine.counts().speculation.accepted > 0u);
  for (const Request& request : varied_requests()) {
    const auto room = static_cast<std::uint32_t>(48 - request.prompt.size());
    BOOST_TEST(with.answer(request.request).tokens ==
               expected_tokens(request.prompt, std::min(request.max_tokens, room), request.sampling, kVocab));
  }
}

BOOST_AUTO_TEST_CASE(an_answer_ends_within_its_guesses_at_a_stop_token_and_at_its_length) {
  EngineOptions options = guessing(roomy_options(), 8);
  Request request{.request = 1, .prompt = {1, 2, 3, 4, 5, 6, 7}, .max_tokens = 9};
  for (int i = 0; i < 4; ++i) request.prompt.insert(request.prompt.end(), {1, 2, 3, 4, 5, 6, 7});
  // A model that counts to 7 and starts again, whatever its logits say.
  for (std::uint32_t token = 8; token < kVocab; ++token) request.sampling.logit_bias.emplace_back(token, -100.F);
  request.sampling.temperature = 0;
  for (const bool stops : {false, true}) {
    Request asked = request;
    const std::vector<std::uint32_t> free_run = expected_tokens(request.prompt, 9, request.sampling, kVocab);
    if (stops) asked.sampling.stop_tokens = {free_run[6]};
    Replica replica(options);
    BOOST_REQUIRE(replica.admit(asked).ok());
    replica.run_until_idle();
    BOOST_TEST(replica.answer(1).tokens == expected_tokens(asked.prompt, 9, asked.sampling, kVocab));
    BOOST_TEST(replica.answer(1).finish == (stops ? FinishReason::STOP : FinishReason::LENGTH));
  }
}

BOOST_AUTO_TEST_CASE(a_sequence_that_wants_no_guesses_gets_none) {
  Replica replica(guessing(roomy_options()));
  Request request{.request = 1, .prompt = prompt_of(9), .max_tokens = 40, .sampling = {{.temperature = 0}}};
  request.speculates = false;
  BOOST_REQUIRE(replica.admit(request).ok());
  replica.run_until_idle();
  BOOST_TEST(replica.engine.counts().speculation.proposed == 0u);
  request.request = 2;
  request.speculates = true;
  BOOST_REQUIRE(replica.admit(request).ok());
  replica.run_until_idle();
  BOOST_TEST(replica.engine.counts().speculation.proposed > 0u);
  BOOST_TEST(replica.answer(1).tokens == replica.answer(2).tokens);
}

BOOST_AUTO_TEST_CASE(a_wider_step_of_a_memory_bound_model_pays_on_text_that_repeats_itself) {
  std::uint64_t took[2];
  for (const bool guesses : {false, true}) {
    EngineOptions options = roomy_options(400);
    options.max_model_len = 1'000;
    Replica replica(guessing(options, guesses ? 8 : 0));
    Request request{.request = 1, .prompt = prompt_of(20), .max_tokens = 800};
    request.sampling.temperature = 0;
    BOOST_REQUIRE(replica.admit(request).ok());
    took[guesses] = run_timed(replica, memory_bound);
  }
  BOOST_TEST(took[0] > 1.5 * static_cast<double>(took[1]));
}

// Text without any repetition to speak of, and rows that cost what they cost in a full batch.
BOOST_AUTO_TEST_CASE(where_guesses_do_not_pay_they_cost_next_to_nothing) {
  for (const float temperature : {0.0F, 2.0F}) {
    std::uint64_t took[2];
    for (const bool guesses : {false, true}) {
      EngineOptions options = roomy_options(400);
      options.max_model_len = 1'000;
      Replica replica(guessing(options, guesses ? 8 : 0));
      Request request{.request = 1, .prompt = prompt_of(20), .max_tokens = 900};
      request.sampling.temperature = temperature;
      BOOST_REQUIRE(replica.admit(request).ok());
      took[guesses] = run_timed(replica, compute_bound);
    }
    BOOST_TEST(static_cast<double>(took[0]) > 0.95 * static_cast<double>(took[1]));
  }
}

BOOST_AUTO_TEST_CASE(guesses_take_neither_blocks_from_others_nor_rows_from_prompts) {
  EngineOptions options = guessing(roomy_options(), 8);
  options.max_batch_tokens = 12;
  Replica replica(options);
  Request request{.request = 1, .prompt = prompt_of(4), .max_tokens = 40, .sampling = {{.temperature = 0}}};
  BOOST_REQUIRE(replica.admit(request).ok());
  while (replica.engine.counts().speculation.proposed == 0) {
    BOOST_REQUIRE(replica.form_step());
    replica.run_oldest_step();
  }
  BOOST_REQUIRE(replica.admit({.request = 2, .prompt = prompt_of(40, 1), .max_tokens = 2}).ok());
  BOOST_REQUIRE(replica.form_step());
  BOOST_TEST(replica.newest_step().getTokenCounts()[0] == 1u);
  BOOST_TEST(replica.newest_step().getTokenCounts()[1] == 11u);
  replica.run_until_idle();

  // 5 blocks: the two need them all, and more.
  EngineOptions few = guessing(roomy_options(5), 8);
  Replica tight(few), plain(roomy_options(5));
  for (Replica* each : {&tight, &plain}) {
    for (std::uint64_t number : {1, 2}) {
      Request small{.request = number, .prompt = prompt_of(5, 1), .max_tokens = 9, .sampling = {{.temperature = 0}}};
      BOOST_REQUIRE(each->admit(small).ok());
    }
    each->run_until_idle();
  }
  BOOST_TEST(tight.engine.counts().preemptions <= plain.engine.counts().preemptions);
  BOOST_TEST(tight.answer(2).tokens == plain.answer(2).tokens);
}

BOOST_AUTO_TEST_CASE(wrong_guesses_are_never_found_in_the_prefix_cache) {
  Replica replica(guessing(roomy_options(200), 8));
  std::uint64_t number = 0;
  for (int round = 0; round < 3; ++round) {
    for (const Request& request : varied_requests()) {
      Request again = request;
      again.request = number++;
      BOOST_REQUIRE(replica.admit(again).ok());
    }
    replica.run_until_idle();
    const PrefixCache& cache = replica.engine.blocks().cache();
    for (std::uint32_t block = 0; block < replica.engine.blocks().num_blocks(); ++block) {
      if (cache.node_of(block) == PrefixCache::kNone) continue;
      const auto page = replica.shard.page(block), tokens = cache.tokens(cache.node_of(block));
      BOOST_REQUIRE(std::equal(page.begin(), page.end(), tokens.begin(), tokens.end()));
    }
  }
  const SpeculationCounts counts = replica.engine.counts().speculation;
  BOOST_TEST(counts.accepted < counts.proposed);
  BOOST_TEST(replica.engine.counts().prefix_hits > 0u);
  for (std::uint64_t i = 0; i < number; ++i) BOOST_TEST(replica.answer(i).tokens == replica.answer(i % 16).tokens);
}

BOOST_AUTO_TEST_CASE(a_failed_step_and_a_new_epoch_forget_the_guesses_in_flight) {
  Replica replica(guessing(roomy_options()));
  const Request request{.request = 1, .prompt = prompt_of(9), .max_tokens = 40, .sampling = {{.temperature = 0}}};
  BOOST_REQUIRE(replica.admit(request).ok());
  while (!replica.form_step() || replica.newest_step().getGuessCounts().size() == 0) replica.run_oldest_step();
  replica.fail_oldest_step();
  BOOST_TEST(replica.answer(1).finish == FinishReason::ERROR);
  BOOST_TEST(replica.engine.blocks().free_blocks() == 64u);

  Request other = request;
  other.request = 2;
  BOOST_REQUIRE(replica.admit(other).ok());
  while (!replica.form_step() || replica.newest_step().getGuessCounts().size() == 0) replica.run_oldest_step();
  replica.run_oldest_step();
  replica.begin_epoch(2);
  replica.run_until_idle();
  BOOST_TEST(replica.answer(2).tokens == expected_tokens(other.prompt, 40, other.sampling, kVocab));
}

BOOST_AUTO_TEST_CASE(a_result_whose_runs_do_not_fit_the_guesses_fails_its_step) {
  const auto broken = [](auto break_it) {
    Replica replica(guessing(roomy_options()));
    BOOST_REQUIRE(
        replica.admit({.request = 1, .prompt = prompt_of(9), .max_tokens = 40, .sampling = {{.temperature = 0}}}).ok());
    while (!replica.form_step() || replica.newest_step().getGuessCounts().size() == 0) replica.run_oldest_step();
    capnp::MallocMessageBuilder message;
    auto result = message.initRoot<schema::StepResult>();
    replica.shard.run(replica.newest_step(), result);
    BOOST_REQUIRE(!result.getFailed());
    break_it(result, replica.newest_step());
    replica.take(replica.engine.apply(result.asReader(), replica.now_ns));
    BOOST_TEST(replica.answer(1).finish == FinishReason::ERROR);
    BOOST_TEST((replica.answer(1).error->code == ErrorCode::kInternal));
  };
  const auto set = [](schema::StepResult::Builder result, std::vector<std::uint32_t> tokens, std::uint32_t count) {
    result.initTokens(static_cast<unsigned>(tokens.size()));
    for (unsigned i = 0; i < tokens.size(); ++i) result.getTokens().set(i, tokens[i]);
    result.initLogprobs(static_cast<unsigned>(tokens.size()));
    result.initTokenCounts(1).set(0, count);
  };
  broken([&](auto result, auto) { set(result, {}, 0); });
  broken([&](auto result, auto) { set(result, {1}, 2); });
  broken([&](auto result, auto) { set(result, {1, 2}, 1); });
  broken([&](auto result, auto) { set(result, std::vector<std::uint32_t>(40, 1), 40); });
  broken([&](auto result, auto step) { set(result, {step.getTokens()[1] + 1, 5}, 2); });
  broken([&](auto result, auto) { result.initTokenCounts(2); });
}

BOOST_AUTO_TEST_SUITE_END()
