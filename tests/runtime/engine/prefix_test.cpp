// What the engine makes of prompts that begin alike.

#include <boost/test/unit_test.hpp>

#include "tests/runtime/engine/replica.h"

using namespace troupe;
using namespace troupe::engine;
using namespace troupe::engine::testing;
using schema::FinishReason;

namespace {

constexpr std::uint32_t kBlockSize = 4;

std::vector<std::uint32_t> new_blocks_of(schema::Step::Reader step) {
  std::vector<std::uint32_t> blocks;
  for (const std::uint32_t block : step.getNewBlocks()) blocks.push_back(block);
  return blocks;
}

// Admits, runs to the end, and checks the tokens.
void answer(Replica& replica, const Request& request) {
  BOOST_REQUIRE(replica.admit(request).ok());
  replica.run_until_idle();
  BOOST_TEST(replica.answer(request.request).tokens ==
             expected_tokens(request.prompt, request.max_tokens, request.sampling, kVocab));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(prefixes)

BOOST_AUTO_TEST_CASE(a_prompt_seen_before_is_computed_from_its_tail_on_in_the_same_blocks) {
  Replica replica(roomy_options());
  BOOST_REQUIRE(replica.admit({.request = 1, .prompt = prompt_of(11)}).ok());
  BOOST_REQUIRE(replica.form_step());
  const std::vector<std::uint32_t> first = new_blocks_of(replica.newest_step());
  replica.run_until_idle();
  BOOST_TEST(replica.answer(1).cached_tokens == 0u);

  BOOST_REQUIRE(replica.admit({.request = 2, .prompt = prompt_of(11)}).ok());
  BOOST_REQUIRE(replica.form_step());
  const schema::Step::Reader step = replica.newest_step();
  const std::vector<std::uint32_t> second = new_blocks_of(step);
  BOOST_TEST(step.getTokens().size() == 3u);
  BOOST_TEST(step.getStartPositions()[0] == 8u);
  BOOST_TEST(step.getStarts()[0].getCachedTokens().size() == 8u);
  BOOST_REQUIRE(second.size() == 3u);
  BOOST_TEST(second[0] == first[0]);
  BOOST_TEST(second[1] == first[1]);
  replica.run_until_idle();
  BOOST_TEST(replica.answer(2).cached_tokens == 8u);
  BOOST_TEST(replica.answer(2).tokens == replica.answer(1).tokens);
  BOOST_TEST(replica.engine.counts().prompt_tokens == 11u + 3u);
  BOOST_TEST(replica.engine.counts().prefix_queries == 22u);
  BOOST_TEST(replica.engine.counts().prefix_hits == 8u);
}

BOOST_AUTO_TEST_CASE(an_answer_is_found_again_as_part_of_the_next_prompt) {
  Replica replica(roomy_options());
  answer(replica, {.request = 1, .prompt = prompt_of(6), .max_tokens = 9});
  Request next{.request = 2, .prompt = prompt_of(6)};
  const std::vector<std::uint32_t>& said = replica.answer(1).tokens;
  next.prompt.insert(next.prompt.end(), said.begin(), said.end());
  next.prompt.push_back(5);
  answer(replica, next);
  BOOST_TEST(replica.answer(2).cached_tokens == 12u);  // of 15: the newest token was never computed
}

BOOST_AUTO_TEST_CASE(penalties_count_the_tokens_that_were_not_computed) {
  Replica replica(roomy_options());
  Request request{.request = 1, .prompt = prompt_of(17), .max_tokens = 12};
  request.sampling = {{.temperature = 0, .repetition_penalty = 3, .presence_penalty = 1}};
  answer(replica, request);
  request.request = 2;
  answer(replica, request);
  BOOST_TEST(replica.answer(2).cached_tokens == 16u);
}

BOOST_AUTO_TEST_CASE(prompt_logprobs_are_computed_whole_and_leave_a_prefix_for_others) {
  Replica replica(roomy_options());
  Request rated{.request = 1, .prompt = prompt_of(13)};
  rated.sampling.prompt_logprobs = true;
  answer(replica, rated);
  rated.request = 2;
  answer(replica, rated);
  BOOST_TEST(replica.answer(2).cached_tokens == 0u);
  BOOST_TEST(replica.answer(2).prompt_logprobs.size() == 12u);
  answer(replica, {.request = 3, .prompt = prompt_of(13)});
  BOOST_TEST(replica.answer(3).cached_tokens == 12u);
}

BOOST_AUTO_TEST_CASE(salts_keep_prompts_apart) {
  Replica replica(roomy_options());
  answer(replica, {.request = 1, .prompt = prompt_of(13), .cache_salt = "a"});
  answer(replica, {.request = 2, .prompt = prompt_of(13), .cache_salt = "b"});
  answer(replica, {.request = 3, .prompt = prompt_of(13)});
  answer(replica, {.request = 4, .prompt = prompt_of(13), .cache_salt = "a"});
  BOOST_TEST(replica.answer(2).cached_tokens == 0u);
  BOOST_TEST(replica.answer(3).cached_tokens == 0u);
  BOOST_TEST(replica.answer(4).cached_tokens == 12u);
}

BOOST_AUTO_TEST_CASE(a_salt_beyond_its_limit_is_refused_by_its_name) {
  Replica replica(roomy_options());
  const Result<void> refused = replica.admit({.prompt = prompt_of(2), .cache_salt = std::string(257, 'x')});
  BOOST_REQUIRE(!refused.ok());
  BOOST_TEST(refused.error().param == "cache_salt");
  BOOST_TEST(refused.error().message.find("cache_salt_bytes") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_prompt_that_many_send_at_a_time_is_computed_once) {
  EngineOptions options = roomy_options();
  options.max_batch_tokens = 6;  // the prompt takes several steps
  Replica replica(options);
  for (std::uint32_t request = 0; request < 4; ++request) {
    std::vector<std::uint32_t> prompt = prompt_of(16);
    prompt.push_back(request);
    BOOST_REQUIRE(replica.admit({.request = request, .prompt = prompt, .max_tokens = 3}).ok());
  }
  replica.run_until_idle();
  BOOST_TEST(replica.engine.counts().prompt_tokens == 16u + 4u);
  for (std::uint32_t request = 0; request < 4; ++request) {
    BOOST_TEST(replica.answer(request).cached_tokens == (request == 0 ? 0u : 16u));
    std::vector<std::uint32_t> prompt = prompt_of(16);
    prompt.push_back(request);
    BOOST_TEST(replica.answer(request).tokens == expected_tokens(prompt, 3, {}, kVocab));
  }
}

BOOST_AUTO_TEST_CASE(who_waits_for_a_prefix_goes_on_alone_when_its_sender_is_gone) {
  EngineOptions options = roomy_options();
  options.max_batch_tokens = 6;
  Replica replica(options);
  BOOST_REQUIRE(replica.admit({.request = 1, .prompt = prompt_of(17)}).ok());
  BOOST_REQUIRE(replica.admit({.request = 2, .prompt = prompt_of(17)}).ok());
  BOOST_REQUIRE(replica.form_step());
  BOOST_TEST(replica.newest_step().getSequences().size() == 1u);
  replica.engine.cancel(1, 1);
  replica.run_until_idle();
  BOOST_TEST(replica.answer(2).cached_tokens == 4u);  // one full block of the first step's six tokens
  BOOST_TEST(replica.answer(2).tokens == expected_tokens(prompt_of(17), 8, {}, kVocab));
}

BOOST_AUTO_TEST_CASE(what_a_failed_step_was_to_compute_is_not_found) {
  Replica replica(roomy_options());
  BOOST_REQUIRE(replica.admit({.request = 1, .prompt = prompt_of(13)}).ok());
  BOOST_REQUIRE(replica.form_step());
  replica.fail_oldest_step();
  BOOST_TEST(replica.engine.blocks().cache().size() == 0u);
  answer(replica, {.request = 2, .prompt = prompt_of(13)});
  BOOST_TEST(replica.answer(2).cached_tokens == 0u);
}

BOOST_AUTO_TEST_CASE(a_new_epoch_finds_empty_pages) {
  Replica replica(roomy_options());
  answer(replica, {.request = 1, .prompt = prompt_of(13)});
  replica.begin_epoch(2);
  answer(replica, {.request = 2, .prompt = prompt_of(13)});
  BOOST_TEST(replica.answer(2).cached_tokens == 0u);
  answer(replica, {.request = 3, .prompt = prompt_of(13)});
  BOOST_TEST(replica.answer(3).cached_tokens == 12u);
}

BOOST_AUTO_TEST_CASE(a_preempted_sequence_takes_up_what_is_left_of_its_own_pages) {
  EngineOptions options = roomy_options(8);
  Replica replica(options);
  BOOST_REQUIRE(replica.admit({.request = 1, .prompt = prompt_of(9), .max_tokens = 16}).ok());
  BOOST_REQUIRE(replica.admit({.request = 2, .prompt = prompt_of(9, 1), .max_tokens = 16}).ok());
  replica.run_until_idle();
  BOOST_TEST(replica.engine.counts().preemptions > 0u);
  BOOST_TEST(replica.engine.counts().prefix_hits > 0u);
  BOOST_TEST(replica.answer(2).cached_tokens == 0u);  // of its prompt, when it began
  BOOST_TEST(replica.answer(1).tokens == expected_tokens(prompt_of(9), 16, {}, kVocab));
  BOOST_TEST(replica.answer(2).tokens == expected_tokens(prompt_of(9, 1), 16, {}, kVocab));
}

BOOST_AUTO_TEST_CASE(without_the_cache_every_prompt_is_computed_whole) {
  EngineOptions options = roomy_options();
  options.limits.prefix_cache_blocks = 0;
  Replica replica(options);
  answer(replica, {.request = 1, .prompt = prompt_of(13)});
  answer(replica, {.request = 2, .prompt = prompt_of(13)});
  BOOST_TEST(replica.answer(2).cached_tokens == 0u);
  BOOST_TEST(replica.engine.counts().prompt_tokens == 26u);
  BOOST_TEST(replica.engine.counts().prefix_queries == 0u);
}

BOOST_AUTO_TEST_SUITE_END()
