// Steps that are begun before the tokens of the one before are known.

#include <array>
#include <boost/test/unit_test.hpp>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/philox.h"
#include "runtime/engine/shard_sequences.h"
#include "tests/runtime/engine/built_step.h"

using namespace troupe;
using namespace troupe::engine;
using namespace troupe::engine::testing;

namespace {

using Numbers = std::vector<std::uint32_t>;

constexpr ShardSequencesOptions kOptions = {.num_blocks = 8,
                                            .num_swap_blocks = 4,
                                            .block_size = 4,
                                            .max_model_len = 20,
                                            .max_batch_tokens = 12,
                                            .max_batch_sequences = 3,
                                            .max_sequences = 3,
                                            .vocab_size = 16};
constexpr std::uint32_t kDrawn = schema::SAMPLED_TOKEN;

const Part kOne = {.sequence = 1, .tokens = {1, 2, 3}, .new_blocks = {6, 2}, .sample = true, .prompt_length = 3};
const Part kTwo = {.sequence = 2, .tokens = {4, 5}, .new_blocks = {0}, .sample = true, .prompt_length = 2};
const Part kThree = {.sequence = 3, .tokens = {7, 8}, .new_blocks = {1}, .prompt_length = 4};
const Part kOneGoesOn = {.sequence = 1, .start_position = 3, .tokens = {kDrawn}, .sample = true};
const Part kTwoGoesOn = {.sequence = 2, .start_position = 2, .tokens = {kDrawn}, .sample = true};

// Logits that make each row draw its token, greedily.
std::vector<float> logits_for(const Numbers& tokens) {
  std::vector<float> logits(tokens.size() * kOptions.vocab_size, 0);
  for (std::size_t row = 0; row < tokens.size(); ++row) logits[row * kOptions.vocab_size + tokens[row]] = 1;
  return logits;
}

Result<void> begin(ShardSequences& sequences, const BuiltStep& built) {
  return sequences.begin_step(const_cast<BuiltStep&>(built).step.asReader());
}

Numbers tokens_of(ShardSequences& sequences, std::uint64_t step) {
  capnp::MallocMessageBuilder message;
  auto result = message.initRoot<schema::StepResult>();
  BOOST_REQUIRE(sequences.write_result(step, result).ok());
  Numbers tokens;
  for (const std::uint32_t token : result.getTokens()) tokens.push_back(token);
  return tokens;
}

bool mentions(const Result<void>& refused, const std::string& what) {
  return !refused.ok() && refused.error().message.find(what) != std::string::npos;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(steps_in_flight)

BOOST_AUTO_TEST_CASE(a_token_that_was_drawn_already_is_put_in) {
  ShardSequences sequences(kOptions, Limits{});
  BOOST_REQUIRE(begin(sequences, BuiltStep({kOne, kTwo}, {}, 7)).ok());
  BOOST_REQUIRE(sequences.sample(7, 0, logits_for({9, 11})).ok());
  BOOST_TEST(tokens_of(sequences, 7) == (Numbers{9, 11}));
  BOOST_REQUIRE(begin(sequences, BuiltStep({kTwoGoesOn, kOneGoesOn}, {}, 8)).ok());
  BOOST_TEST(sequences.flat().tokens == (Numbers{11, 9}));
  BOOST_TEST(sequences.flat().token_sources.empty());
  BOOST_TEST(sequences.flat().positions == (Numbers{2, 3}));
  BOOST_TEST(sequences.flat().context_lengths == (Numbers{3, 4}));
}

BOOST_AUTO_TEST_CASE(one_that_was_not_says_which_row_of_the_step_before_draws_it) {
  ShardSequences sequences(kOptions, Limits{});
  // Rows that rate the prompt come before the one that draws.
  BuiltStep first({kOne, kThree, kTwo}, {}, 7);
  first.step.getStarts()[0].getSampling().setPromptLogprobs(true);
  BOOST_REQUIRE(begin(sequences, first).ok());
  BOOST_TEST(sequences.flat().logits_rows == (Numbers{0, 1, 2, 6}));
  BuiltStep second({{.sequence = 3, .start_position = 2, .tokens = {9, 10}, .sample = true}, kTwoGoesOn, kOneGoesOn},
                   {}, 8);
  BOOST_REQUIRE(begin(sequences, second).ok());
  BOOST_TEST(sequences.flat().tokens == (Numbers{9, 10, 0, 0}));
  BOOST_TEST(sequences.flat().token_sources == (Numbers{FlatStep::kKnown, FlatStep::kKnown, 3, 2}));
  BOOST_TEST(sequences.flat().slots == (Numbers{6, 7, 2, 27}));

  // Their own tokens come after those.
  BOOST_TEST(mentions(sequences.sample(8, 1, logits_for({1})), "from row 1"));
  BOOST_TEST(sequences.sample(8, 0, logits_for({1})).ok());
  BOOST_TEST(mentions(sequences.sample(8, 1, logits_for({1})), "sequence 2 lacks a token"));
  BOOST_REQUIRE(sequences.sample(7, 0, logits_for({2, 3})).ok());
  BOOST_REQUIRE(sequences.sample(7, 2, logits_for({12, 13})).ok());
  BOOST_TEST(tokens_of(sequences, 7) == (Numbers{12, 13}));
}

// Penalties count the token that was not known when the step was begun.
BOOST_AUTO_TEST_CASE(a_history_is_completed_when_its_tokens_are_there) {
  for (const bool open : {false, true}) {
    ShardSequences sequences(kOptions, Limits{});
    BuiltStep first({kOne, kTwo}, {}, 1);
    for (auto start : first.step.getStarts()) start.getSampling().setPresencePenalty(1.5F);
    BOOST_REQUIRE(begin(sequences, first).ok());
    const auto draw_first = [&] { BOOST_REQUIRE(sequences.sample(1, 0, logits_for({9, 11})).ok()); };
    if (!open) draw_first();
    BOOST_REQUIRE(begin(sequences, BuiltStep({kOneGoesOn, kTwoGoesOn}, {}, 2)).ok());
    BOOST_TEST(sequences.flat().token_sources.empty() == !open);
    if (open) draw_first();
    BOOST_REQUIRE(sequences.sample(2, 0, logits_for({9, 3})).ok());
    BOOST_TEST(tokens_of(sequences, 2) == (Numbers{0, 3}));  // 9 was there

    // A third goes on like any other, or ahead again.
    BuiltStep third({{.sequence = 1, .start_position = 4, .tokens = {0}, .sample = true},
                     {.sequence = 2, .start_position = 3, .tokens = {kDrawn}, .sample = true}},
                    {}, 3);
    BOOST_REQUIRE(begin(sequences, third).ok());
    BOOST_TEST(sequences.flat().tokens == (Numbers{0, 3}));
    BOOST_REQUIRE(sequences.sample(3, 0, logits_for({9, 11})).ok());
    BOOST_TEST(tokens_of(sequences, 3) == (Numbers{1, 0}));  // 0 and 9, and 11, were there
  }
}

BOOST_AUTO_TEST_CASE(only_the_two_steps_begun_last_can_be_sampled) {
  ShardSequences sequences(kOptions, Limits{});
  BOOST_REQUIRE(begin(sequences, BuiltStep({kOne}, {}, 1)).ok());
  BOOST_REQUIRE(begin(sequences, BuiltStep({kTwo}, {}, 2)).ok());
  BOOST_REQUIRE(begin(sequences, BuiltStep({kThree}, {}, 3)).ok());
  capnp::MallocMessageBuilder message;
  BOOST_TEST(mentions(sequences.sample(1, 0, logits_for({1})), "step 1 is neither"));
  BOOST_TEST(mentions(sequences.write_result(1, message.initRoot<schema::StepResult>()), "step 1 is neither"));
  BOOST_TEST(sequences.sample(2, 0, logits_for({1})).ok());
  sequences.clear();
  BOOST_TEST(mentions(sequences.sample(2, 0, logits_for({1})), "step 2 is neither"));
}

BOOST_AUTO_TEST_CASE(a_token_that_nobody_draws_is_refused) {
  const auto refusal = [](const std::vector<Part>& first, const std::vector<Part>& second, bool draws = false) {
    ShardSequences sequences(kOptions, Limits{});
    BOOST_REQUIRE(begin(sequences, BuiltStep(first, {}, 1)).ok());
    if (draws) BOOST_REQUIRE(sequences.sample(1, 0, logits_for({9})).ok());
    Result<void> begun = begin(sequences, BuiltStep(second, {}, 2));
    if (!begun.ok()) BOOST_TEST(sequences.flat().token_sources.empty());
    return begun;
  };
  for (const bool drawn : {false, true}) BOOST_TEST(refusal({kOne}, {kOneGoesOn}, drawn).ok());
  const std::string not_drawn = "sequence 2 goes on with a token that the step before does not draw";
  // Not in the step before; there, but not sampled; or begun with this one.
  BOOST_TEST(mentions(refusal({kOne}, {kTwoGoesOn}), "sequence 2 is unknown"));
  Part quiet = kTwo;
  quiet.sample = false;
  BOOST_TEST(mentions(refusal({kOne, quiet}, {kTwoGoesOn}), not_drawn));
  Part fresh = kTwo;
  fresh.tokens = {kDrawn};
  BOOST_TEST(mentions(refusal({kOne, kTwo}, {fresh}), not_drawn));
  // In its prompt, among other tokens, as a guess or in front of one, at another place.
  Part early = kThree;
  early.sample = true;
  BOOST_TEST(mentions(refusal({early}, {{.sequence = 3, .start_position = 2, .tokens = {kDrawn}}}), "in its prompt"));
  for (const Numbers& tokens : {Numbers{kDrawn, 1}, Numbers{1, kDrawn}, Numbers{kDrawn, kDrawn}}) {
    Part part = kOneGoesOn;
    part.tokens = tokens;
    BOOST_TEST(mentions(refusal({kOne}, {part}), "to be drawn among others"));
    part.guesses = 1;
    BOOST_TEST(mentions(refusal({kOne}, {part}), "to be drawn among others"));
  }
  for (const std::uint32_t position : {2u, 4u}) {
    Part part = kOneGoesOn;
    part.start_position = position;
    BOOST_TEST(mentions(refusal({kOne}, {part}), "position"));
  }
}

BOOST_AUTO_TEST_CASE(nothing_goes_on_from_a_step_with_guesses_or_from_one_before_the_last) {
  ShardSequences sequences(kOptions, Limits{});
  BOOST_REQUIRE(begin(sequences, BuiltStep({kOne, kTwo}, {}, 1)).ok());
  BOOST_REQUIRE(begin(sequences, BuiltStep({kOneGoesOn}, {}, 2)).ok());
  BOOST_TEST(mentions(begin(sequences, BuiltStep({kTwoGoesOn}, {}, 3)), "does not draw"));

  sequences.clear();
  BOOST_REQUIRE(begin(sequences, BuiltStep({kOne}, {}, 1)).ok());
  BuiltStep guessing({{.sequence = 1, .start_position = 3, .tokens = {6, 7}, .sample = true, .guesses = 1}}, {}, 2);
  BOOST_REQUIRE(begin(sequences, guessing).ok());
  BuiltStep next({{.sequence = 1, .start_position = 5, .tokens = {kDrawn}, .sample = true}}, {}, 3);
  BOOST_TEST(mentions(begin(sequences, next), "does not draw"));
}

BOOST_AUTO_TEST_CASE(where_a_draw_failed_nothing_goes_on) {
  ShardSequences sequences(kOptions, Limits{});
  BOOST_REQUIRE(begin(sequences, BuiltStep({kOne, kTwo}, {}, 1)).ok());
  std::vector<float> logits = logits_for({9, 11});
  logits[kOptions.vocab_size] = std::numeric_limits<float>::quiet_NaN();
  BOOST_TEST(!sequences.sample(1, 0, logits).ok());
  BOOST_TEST(mentions(begin(sequences, BuiltStep({kOneGoesOn}, {}, 2)), "does not draw"));

  // Known too late: the step was begun.
  sequences.clear();
  BOOST_REQUIRE(begin(sequences, BuiltStep({kOne, kTwo}, {}, 1)).ok());
  BOOST_REQUIRE(begin(sequences, BuiltStep({kTwoGoesOn}, {}, 2)).ok());
  BOOST_TEST(!sequences.sample(1, 0, logits).ok());
  BOOST_TEST(mentions(sequences.sample(2, 0, logits_for({1})), "sequence 2 lacks a token"));
  BuiltStep next({{.sequence = 2, .start_position = 3, .tokens = {kDrawn}, .sample = true}}, {}, 3);
  BOOST_TEST(mentions(begin(sequences, next), "behind a token that was never drawn"));
}

BOOST_AUTO_TEST_CASE(a_refused_step_draws_nothing) {
  ShardSequences sequences(kOptions, Limits{});
  BuiltStep refused({kOne, {.sequence = 9, .tokens = {1}, .sample = true}}, {}, 1);
  BOOST_REQUIRE(!begin(sequences, refused).ok());
  BOOST_TEST(mentions(begin(sequences, BuiltStep({kOneGoesOn}, {}, 2)), "does not draw"));
}

// The step in flight still looks at what it began with.
BOOST_AUTO_TEST_CASE(a_sequence_that_is_released_while_its_step_is_in_flight_leaves_that_as_it_is) {
  ShardSequences sequences(kOptions, Limits{});
  BuiltStep first({kOne}, {}, 1);
  first.step.getStarts()[0].getSampling().setPresencePenalty(1.5F);
  BOOST_REQUIRE(begin(sequences, first).ok());
  // It begins again, otherwise.
  Part again = kOne;
  again.tokens = {8, 8, 8};
  BOOST_REQUIRE(begin(sequences, BuiltStep({again, kTwo}, {1}, 2)).ok());
  BOOST_REQUIRE(sequences.sample(1, 0, logits_for({8})).ok());
  BOOST_TEST(tokens_of(sequences, 1) == (Numbers{8}));
  BOOST_TEST(sequences.size() == 2u);
}

// Whatever steps say and in whatever order they are sampled, everything stays inside pages, lists and vocabulary.
BOOST_AUTO_TEST_CASE(no_order_of_wrong_steps_and_samples_leads_astray) {
  ShardSequences sequences(kOptions, Limits{});
  std::uint64_t draw = 0;
  const auto number = [&](std::uint32_t below) {
    return static_cast<std::uint32_t>(philox_uniform(77, draw++) * below);
  };
  int accepted = 0, open = 0, sampled = 0;
  std::size_t rows[2] = {};                  // of the steps with even and odd numbers
  std::array<std::uint32_t, 5> length = {};  // of the sequences; 0 = to begin anew
  for (std::uint64_t step = 1; step <= 20'000; ++step) {
    std::vector<Part> parts;
    std::array<std::uint32_t, 5> next_length = length;
    for (std::uint64_t sequence = number(3); sequence < 5 && parts.size() < 3; sequence += 1 + number(3)) {
      const bool starts = length[sequence] == 0 || length[sequence] > 16 || number(20) == 0, goes_on = number(3) > 0;
      Part part{.sequence = sequence, .start_position = starts ? 0 : length[sequence], .sample = number(4) > 0};
      part.tokens = !starts && goes_on ? Numbers{kDrawn} : Numbers(1 + number(3), number(16));
      if (number(30) == 0) part.start_position = number(6);
      if (number(30) == 0) part.tokens.push_back(kDrawn);
      if (number(6) == 0 && part.tokens.size() > 1) part.guesses = 1;
      if (starts)
        part.prompt_length = static_cast<std::uint32_t>(part.tokens.size()), part.new_blocks = {0, 1, 2, 3, 4};
      next_length[sequence] = part.start_position + static_cast<std::uint32_t>(part.tokens.size());
      parts.push_back(part);
    }
    BuiltStep built(parts, {number(40)}, step);
    for (auto start : built.step.getStarts()) start.getSampling().setPresencePenalty(0.5F);
    const bool begun = sequences.begin_step(built.step.asReader()).ok();
    length = begun ? next_length : std::array<std::uint32_t, 5>{};
    const FlatStep& flat = sequences.flat();
    rows[step % 2] = flat.logits_rows.size();
    accepted += begun ? 1 : 0;
    open += flat.token_sources.empty() ? 0 : 1;
    for (std::size_t row = 0; row < flat.token_sources.size(); ++row) {
      BOOST_REQUIRE(flat.token_sources.size() == flat.tokens.size());
      BOOST_REQUIRE((flat.token_sources[row] == FlatStep::kKnown || flat.token_sources[row] < rows[(step - 1) % 2]));
    }
    for (const std::uint32_t token : flat.tokens) BOOST_REQUIRE(token < kOptions.vocab_size);
    for (const std::uint64_t of : {step - 1, step}) {
      if (number(3) == 0) continue;
      Numbers drawn(rows[of % 2]);
      for (std::uint32_t& token : drawn) token = number(16);
      capnp::MallocMessageBuilder message;
      sampled += sequences.sample(of, 0, logits_for(drawn)).ok() ? 1 : 0;
      static_cast<void>(sequences.write_result(of, message.initRoot<schema::StepResult>()));
    }
  }
  BOOST_TEST(accepted > 2'000);
  BOOST_TEST(open > 200);
  BOOST_TEST(sampled > 2'000);
}

BOOST_AUTO_TEST_SUITE_END()
