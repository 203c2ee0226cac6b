#include "runtime/engine/shard_sequences.h"

#include <capnp/message.h>
#include <capnp/serialize.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/philox.h"
#include "tests/runtime/engine/built_step.h"

using namespace troupe;
using namespace troupe::engine;
using namespace troupe::engine::testing;

namespace {

constexpr ShardSequencesOptions kOptions = {.num_blocks = 8,
                                            .num_swap_blocks = 4,
                                            .block_size = 4,
                                            .max_model_len = 20,
                                            .max_batch_tokens = 12,
                                            .max_batch_sequences = 3,
                                            .max_sequences = 2,
                                            .vocab_size = 16};

const Part kFirst = {
    .sequence = 1, .tokens = {1, 2, 3, 4, 5}, .new_blocks = {6, 2}, .sample = true, .prompt_length = 5};
const Part kSecond = {.sequence = 2, .tokens = {7, 8, 9}, .new_blocks = {0}, .sample = false, .prompt_length = 4};

using Numbers = std::vector<std::uint32_t>;

// The message of the refusal of a step that was right before `spoil` changed it.
std::string refusal(const std::function<void(schema::Step::Builder)>& spoil) {
  ShardSequences sequences(kOptions, Limits{});
  BuiltStep built({kFirst, kSecond});
  spoil(built.step);
  const Result<void> begun = sequences.begin_step(built.step.asReader());
  BOOST_REQUIRE(!begun.ok());
  BOOST_TEST(sequences.flat().logits_rows.empty());
  // Whatever was refused, the shard works on for others.
  BuiltStep next({{.sequence = 9, .tokens = {1}, .new_blocks = {0}, .prompt_length = 1}}, {1, 2});
  BOOST_TEST(sequences.begin_step(next.step.asReader()).ok());
  return begun.error().message;
}

bool mentions(const std::string& message, const std::string& what) { return message.find(what) != std::string::npos; }

}  // namespace

BOOST_AUTO_TEST_SUITE(shard_sequences)

BOOST_AUTO_TEST_CASE(a_step_is_laid_out_flat) {
  ShardSequences sequences(kOptions, Limits{});
  BuiltStep built({kFirst, kSecond});
  BOOST_REQUIRE(sequences.begin_step(built.step.asReader()).ok());
  const FlatStep& flat = sequences.flat();
  BOOST_TEST(flat.tokens == (Numbers{1, 2, 3, 4, 5, 7, 8, 9}));
  BOOST_TEST(flat.positions == (Numbers{0, 1, 2, 3, 4, 0, 1, 2}));
  BOOST_TEST(flat.slots == (Numbers{24, 25, 26, 27, 8, 0, 1, 2}));
  BOOST_TEST(flat.row_starts == (Numbers{0, 5, 8}));
  BOOST_TEST(flat.context_lengths == (Numbers{5, 3}));
  BOOST_TEST(flat.block_tables == (Numbers{6, 2, 0}));
  BOOST_TEST(flat.block_table_starts == (Numbers{0, 2, 3}));
  BOOST_TEST(flat.logits_rows == (Numbers{4}));
}

// A reader takes somebody who asks for the same list again and again for an attacker.
BOOST_AUTO_TEST_CASE(however_long_a_step_is_its_message_is_gone_over_only_a_few_times) {
  constexpr std::uint32_t kTokens = 4'096;
  ShardSequences sequences({.num_blocks = 2 * kTokens,
                            .block_size = 4,
                            .max_model_len = 8 * kTokens,
                            .max_batch_tokens = kTokens,
                            .max_batch_sequences = 1,
                            .max_sequences = 1,
                            .vocab_size = 16},
                           Limits{});
  Part part{.sequence = 1, .tokens = Numbers(kTokens, 3), .sample = true, .prompt_length = kTokens};
  for (std::uint32_t block = 0; block < 2 * kTokens; ++block) part.new_blocks.push_back(block);
  BuiltStep built({part});
  const kj::Array<capnp::word> words = capnp::messageToFlatArray(built.message);
  capnp::ReaderOptions options;
  options.traversalLimitInWords = 4 * words.size();
  capnp::FlatArrayMessageReader reader(words, options);
  BOOST_REQUIRE(sequences.begin_step(reader.getRoot<schema::Step>()).ok());
  BOOST_TEST(sequences.flat().tokens.size() == kTokens);
}

BOOST_AUTO_TEST_CASE(a_later_step_goes_on_where_the_sequence_stood) {
  ShardSequences sequences(kOptions, Limits{});
  BuiltStep first({kFirst, kSecond});
  BOOST_REQUIRE(sequences.begin_step(first.step.asReader()).ok());
  BuiltStep second({{.sequence = 2, .start_position = 3, .tokens = {10, 11}, .new_blocks = {5}, .sample = true},
                    {.sequence = 1, .start_position = 5, .tokens = {6}, .sample = true}});
  BOOST_REQUIRE(sequences.begin_step(second.step.asReader()).ok());
  const FlatStep& flat = sequences.flat();
  BOOST_TEST(flat.slots == (Numbers{3, 20, 9}));
  BOOST_TEST(flat.context_lengths == (Numbers{5, 6}));
  BOOST_TEST(flat.block_tables == (Numbers{0, 5, 6, 2}));
  BOOST_TEST(flat.logits_rows == (Numbers{1, 2}));
}

BOOST_AUTO_TEST_CASE(a_sequence_may_begin_behind_cached_tokens) {
  ShardSequences sequences(kOptions, Limits{});
  BuiltStep built({{.sequence = 1,
                    .start_position = 4,
                    .tokens = {5, 6},
                    .new_blocks = {7, 3},
                    .sample = true,
                    .prompt_length = 6}});
  built.step.getStarts()[0].setCachedTokens({1, 2, 3, 4});
  BOOST_REQUIRE(sequences.begin_step(built.step.asReader()).ok());
  const FlatStep& flat = sequences.flat();
  BOOST_TEST(flat.tokens == (Numbers{5, 6}));
  BOOST_TEST(flat.positions == (Numbers{4, 5}));
  BOOST_TEST(flat.slots == (Numbers{12, 13}));
  BOOST_TEST(flat.context_lengths == (Numbers{6}));
  BOOST_TEST(flat.block_tables == (Numbers{7, 3}));
}

BOOST_AUTO_TEST_CASE(cached_tokens_that_do_not_fit_are_refused) {
  const auto start_of = [](schema::Step::Builder step) { return step.getStarts()[0]; };
  BOOST_TEST(mentions(refusal([&](auto step) { start_of(step).setCachedTokens({1, 16}); }), "beyond the vocabulary"));
  BOOST_TEST(mentions(refusal([&](auto step) { start_of(step).initCachedTokens(20); }), "max_model_len"));
  BOOST_TEST(mentions(refusal([&](auto step) { start_of(step).setCachedTokens({1, 2}); }), "position"));
  BOOST_TEST(mentions(refusal([&](auto step) {
                        start_of(step).setCachedTokens({1, 2, 3, 4});
                        step.getStartPositions().set(0, 4);
                      }),
                      "too few blocks"));
}

BOOST_AUTO_TEST_CASE(released_sequences_are_forgotten_before_others_start) {
  ShardSequences sequences(kOptions, Limits{});
  BuiltStep first({kFirst, kSecond});
  BOOST_REQUIRE(sequences.begin_step(first.step.asReader()).ok());
  // The same sequence begins again, as after preemption; an unknown one is no error.
  BuiltStep second({kFirst}, {1, 2, 77});
  BOOST_REQUIRE(sequences.begin_step(second.step.asReader()).ok());
  BOOST_TEST(sequences.size() == 1u);
  BOOST_TEST(sequences.flat().context_lengths == (Numbers{5}));
  sequences.clear();
  BOOST_TEST(sequences.size() == 0u);
  BuiltStep third({{.sequence = 1, .start_position = 5, .tokens = {6}}});
  BOOST_TEST(!sequences.begin_step(third.step.asReader()).ok());
}

BOOST_AUTO_TEST_CASE(a_result_holds_the_drawn_tokens_and_what_was_asked_to_be_rated) {
  ShardSequences sequences(kOptions, Limits{});
  BuiltStep built({kFirst, kSecond});
  auto rated = built.step.getStarts()[1].getSampling();
  rated.setPromptLogprobs(true);
  rated.setTopLogprobs(2);
  built.step.initNextTokens(2).set(1, 13);
  BOOST_REQUIRE(sequences.begin_step(built.step.asReader()).ok());
  BOOST_TEST(sequences.flat().logits_rows == (Numbers{4, 5, 6, 7}));
  std::vector<float> logits(4 * kOptions.vocab_size, 0);
  logits[11] = 1;                            // the first sequence's next token
  logits[3 * kOptions.vocab_size + 13] = 2;  // the second's last row is sure of what follows
  capnp::MallocMessageBuilder message;
  auto result = message.initRoot<schema::StepResult>();
  BOOST_REQUIRE(sequences.sample(0, 0, logits).ok());
  BOOST_REQUIRE(sequences.write_result(0, result).ok());
  BOOST_REQUIRE(result.getSequences().size() == 1u);
  BOOST_TEST(result.getSequences()[0] == 1u);
  BOOST_TEST(result.getTokens()[0] == 11u);
  BOOST_TEST(std::isnan(result.getLogprobs()[0].getChosen().getLogprob()));
  const auto prompt = result.asReader().getPromptLogprobs()[0];
  BOOST_TEST(prompt.getSequence() == 2u);
  BOOST_TEST(prompt.getFirstPosition() == 1u);
  BOOST_REQUIRE(prompt.getItems().size() == 3u);
  BOOST_TEST(prompt.getItems()[0].getChosen().getToken() == 8u);
  BOOST_TEST(prompt.getItems()[2].getChosen().getToken() == 13u);
  BOOST_TEST(prompt.getItems()[2].getTop()[0].getToken() == 13u);
  BOOST_TEST(prompt.getItems()[2].getChosen().getLogprob() > prompt.getItems()[0].getChosen().getLogprob());
}

// Rows of logits of which each is sure of one token.
std::vector<float> sure_of(const Numbers& tokens) {
  std::vector<float> logits(tokens.size() * kOptions.vocab_size, 0);
  for (std::size_t row = 0; row < tokens.size(); ++row) logits[row * kOptions.vocab_size + tokens[row]] = 1;
  return logits;
}

BOOST_AUTO_TEST_CASE(tokens_are_drawn_for_as_long_as_guesses_come_true) {
  const auto drawn = [](const Numbers& model, std::size_t rows_at_a_time) {
    ShardSequences sequences(kOptions, Limits{});
    BuiltStep first({kFirst});
    BOOST_REQUIRE(sequences.begin_step(first.step.asReader()).ok());
    BuiltStep second({{.sequence = 1,
                       .start_position = 5,
                       .tokens = {6, 7, 8, 9},
                       .new_blocks = {1},
                       .sample = true,
                       .guesses = 3}});
    BOOST_REQUIRE(sequences.begin_step(second.step.asReader()).ok());
    BOOST_TEST(sequences.flat().logits_rows == (Numbers{0, 1, 2, 3}));
    const std::vector<float> logits = sure_of(model);
    const std::size_t vocab = kOptions.vocab_size;
    for (std::size_t row = 0; row < 4; row += rows_at_a_time) {
      const std::size_t rows = std::min(rows_at_a_time, 4 - row);
      BOOST_REQUIRE(sequences.sample(0, row, std::span(logits).subspan(row * vocab, rows * vocab)).ok());
    }
    capnp::MallocMessageBuilder message;
    auto result = message.initRoot<schema::StepResult>();
    BOOST_REQUIRE(sequences.write_result(0, result).ok());
    BOOST_TEST(result.getTokenCounts()[0] == result.getTokens().size());
    BOOST_TEST(result.getLogprobs().size() == result.getTokens().size());
    Numbers tokens;
    for (const std::uint32_t token : result.getTokens()) tokens.push_back(token);

    // The next step goes on behind what came true.
    const auto start = static_cast<std::uint32_t>(5 + tokens.size());
    BuiltStep third({{.sequence = 1, .start_position = start, .tokens = {tokens.back()}, .sample = true}});
    BOOST_REQUIRE(sequences.begin_step(third.step.asReader()).ok());
    BOOST_TEST(sequences.flat().positions == (Numbers{start}));
    return tokens;
  };
  for (const std::size_t rows_at_a_time : {1, 3, 4}) {
    BOOST_TEST(drawn({7, 8, 9, 10}, rows_at_a_time) == (Numbers{7, 8, 9, 10}));
    BOOST_TEST(drawn({7, 8, 1, 10}, rows_at_a_time) == (Numbers{7, 8, 1}));
    BOOST_TEST(drawn({1, 8, 9, 10}, rows_at_a_time) == (Numbers{1}));
  }
}

BOOST_AUTO_TEST_CASE(guesses_that_do_not_fit_are_refused) {
  const auto after_first = [](const Part& part) {
    ShardSequences sequences(kOptions, Limits{});
    BuiltStep first({kFirst});
    BOOST_REQUIRE(sequences.begin_step(first.step.asReader()).ok());
    BuiltStep second({part});
    return sequences.begin_step(second.step.asReader()).error().message;
  };
  BOOST_TEST(mentions(after_first({.sequence = 1, .start_position = 5, .tokens = {6, 7}, .sample = true, .guesses = 2}),
                      "no token before its guesses"));
  BOOST_TEST(mentions(after_first({.sequence = 1, .start_position = 5, .tokens = {6, 7}, .guesses = 1}),
                      "nothing is sampled"));
  BOOST_TEST(mentions(after_first({.sequence = 1, .start_position = 4, .tokens = {6, 7}, .sample = true}), "position"));
  BOOST_TEST(mentions(refusal([](auto step) { step.initGuessCounts(2).set(0, 2); }), "in its prompt"));
  BOOST_TEST(mentions(refusal([](auto step) { step.initGuessCounts(1); }), "differ in length"));

  // Not in front of what was no guess.
  ShardSequences sequences(kOptions, Limits{});
  BuiltStep first({kFirst});
  BOOST_REQUIRE(sequences.begin_step(first.step.asReader()).ok());
  BuiltStep second({{.sequence = 1, .start_position = 5, .tokens = {6, 7, 8}, .sample = true, .guesses = 2}});
  BOOST_REQUIRE(sequences.begin_step(second.step.asReader()).ok());
  BuiltStep third({{.sequence = 1, .start_position = 5, .tokens = {6}, .sample = true}});
  BOOST_TEST(mentions(sequences.begin_step(third.step.asReader()).error().message, "position"));
}

BOOST_AUTO_TEST_CASE(logits_of_the_wrong_size_are_an_error) {
  ShardSequences sequences(kOptions, Limits{});
  BuiltStep built({kFirst});
  BOOST_REQUIRE(sequences.begin_step(built.step.asReader()).ok());
  const std::vector<float> logits(2 * kOptions.vocab_size);
  BOOST_TEST(!sequences.sample(0, 0, std::span(logits).first(kOptions.vocab_size - 1)).ok());
  BOOST_TEST(!sequences.sample(0, 0, logits).ok());
  BOOST_TEST(!sequences.sample(0, 1, std::span(logits).first(kOptions.vocab_size)).ok());
  BOOST_TEST(sequences.sample(0, 0, std::span(logits).first(kOptions.vocab_size)).ok());
}

BOOST_AUTO_TEST_CASE(logits_in_pieces_give_the_result_of_logits_at_once) {
  BuiltStep built({kFirst, kSecond});
  for (auto start : built.step.getStarts()) {
    start.getSampling().setPromptLogprobs(true);
    start.getSampling().setLogprobs(true);
    start.getSampling().setTopLogprobs(3);
  }
  const auto result_text = [&](std::size_t rows_at_a_time) {
    ShardSequences sequences(kOptions, Limits{});
    BOOST_REQUIRE(sequences.begin_step(built.step.asReader()).ok());
    const std::size_t rows = sequences.flat().logits_rows.size();
    BOOST_REQUIRE(rows == 8u);
    std::vector<float> logits(rows * kOptions.vocab_size);
    for (std::size_t i = 0; i < logits.size(); ++i) logits[i] = static_cast<float>(philox_uniform(5, i));
    capnp::MallocMessageBuilder message;
    auto result = message.initRoot<schema::StepResult>();
    for (std::size_t row = 0; row < rows; row += rows_at_a_time) {
      BOOST_TEST(!sequences.write_result(0, result).ok(), "rows are missing");
      const std::size_t count = std::min(rows_at_a_time, rows - row);
      const auto piece = std::span(logits).subspan(row * kOptions.vocab_size, count * kOptions.vocab_size);
      BOOST_REQUIRE(sequences.sample(0, row, piece).ok());
    }
    BOOST_REQUIRE(sequences.write_result(0, result).ok());
    return std::string(result.toString().flatten().cStr());
  };
  const std::string at_once = result_text(8);
  BOOST_TEST(result_text(1) == at_once);
  BOOST_TEST(result_text(3) == at_once);
}

BOOST_AUTO_TEST_CASE(lists_that_do_not_fit_together_are_refused) {
  BOOST_TEST(mentions(refusal([](auto step) { step.initSequences(0); }), "sequences"));
  BOOST_TEST(mentions(refusal([](auto step) { step.initSequences(4); }), "sequences"));
  BOOST_TEST(mentions(refusal([](auto step) { step.initTokenCounts(1); }), "differ in length"));
  BOOST_TEST(mentions(refusal([](auto step) { step.initStartPositions(3); }), "differ in length"));
  BOOST_TEST(mentions(refusal([](auto step) { step.initNewBlockCounts(0); }), "differ in length"));
  BOOST_TEST(mentions(refusal([](auto step) { step.initSample(1); }), "differ in length"));
  BOOST_TEST(mentions(refusal([](auto step) { step.initNextTokens(1); }), "differ in length"));
  BOOST_TEST(mentions(refusal([](auto step) { step.initTokens(13); }), "at most 12"));
  BOOST_TEST(mentions(refusal([](auto step) { step.getTokenCounts().set(0, 0xffffffff); }), "tokenCounts"));
  BOOST_TEST(mentions(refusal([](auto step) { step.getNewBlockCounts().set(1, 0xffffffff); }), "newBlockCounts"));
  BOOST_TEST(mentions(refusal([](auto step) {
                        step.getTokenCounts().set(0, 8);
                        step.getTokenCounts().set(1, 0);
                      }),
                      "sequence"));
}

BOOST_AUTO_TEST_CASE(sequences_that_are_unknown_or_twice_are_refused) {
  BOOST_TEST(mentions(refusal([](auto step) { step.getSequences().set(1, 5); }), "unknown"));
  BOOST_TEST(mentions(refusal([](auto step) { step.getSequences().set(1, 1); }), "twice"));
  BOOST_TEST(mentions(refusal([](auto step) { step.initReleased(1).set(0, 1), step.initStarts(0); }), "unknown"));
}

BOOST_AUTO_TEST_CASE(indices_beyond_the_pages_the_vocabulary_or_the_model_are_refused) {
  BOOST_TEST(mentions(refusal([](auto step) { step.getNewBlocks().set(1, 8); }), "does not have"));
  BOOST_TEST(mentions(refusal([](auto step) { step.getTokens().set(7, 16); }), "vocabulary"));
  BOOST_TEST(mentions(refusal([](auto step) { step.initNextTokens(2).set(0, 16); }), "vocabulary"));
  BOOST_TEST(mentions(refusal([](auto step) { step.getStartPositions().set(0, 1); }), "position"));
  BOOST_TEST(mentions(refusal([](auto step) {
                        step.getNewBlockCounts().set(0, 1);
                        step.getNewBlockCounts().set(1, 2);
                      }),
                      "too few blocks"));
  BOOST_TEST(mentions(refusal([](auto step) {
                        step.getNewBlockCounts().set(0, 7);
                        step.initNewBlocks(8);
                      }),
                      "more blocks"));
}

BOOST_AUTO_TEST_CASE(copies_are_taken_in_order) {
  ShardSequences sequences(kOptions, Limits{});
  BuiltStep built({kFirst, kSecond});
  auto copies = built.step.initCopies(2);
  copies[0].setFrom(3);
  copies[0].setTo(11);
  copies[1].setFrom(8);
  copies[1].setTo(3);
  BOOST_REQUIRE(sequences.begin_step(built.step.asReader()).ok());
  BOOST_TEST((sequences.flat().copies == std::vector<BlockCopy>{{3, 11}, {8, 3}}));
  BuiltStep next({{.sequence = 9, .tokens = {1}, .new_blocks = {0}, .prompt_length = 1}}, {1, 2});
  BOOST_REQUIRE(sequences.begin_step(next.step.asReader()).ok());
  BOOST_TEST(sequences.flat().copies.empty());
}

BOOST_AUTO_TEST_CASE(copies_from_or_to_blocks_that_are_not_there_are_refused) {
  const auto copy = [](std::uint32_t from, std::uint32_t to) {
    return refusal([=](auto step) {
      auto copies = step.initCopies(2);
      copies[0].setTo(1);
      copies[1].setFrom(from);
      copies[1].setTo(to);
    });
  };
  BOOST_TEST(mentions(copy(12, 0), "block 12 to 0"));
  BOOST_TEST(mentions(copy(0, 12), "has 12"));
  BOOST_TEST(mentions(copy(0, 0xffffffff), "block 0 to 4294967295"));
  BOOST_TEST(mentions(copy(5, 5), "block 5 to 5"));
  BOOST_TEST(mentions(refusal([](auto step) { step.initCopies(13); }), "13 copies"));
}

BOOST_AUTO_TEST_CASE(starts_that_make_no_sense_are_refused) {
  BOOST_TEST(mentions(refusal([](auto step) { step.getStarts()[0].setPromptLength(0); }), "prompt"));
  BOOST_TEST(mentions(refusal([](auto step) { step.getStarts()[0].setPromptLength(21); }), "prompt"));
  BOOST_TEST(mentions(refusal([](auto step) { step.getStarts()[1].initStopTokens(257); }), "stop_tokens"));
  BOOST_TEST(mentions(refusal([](auto step) { step.getStarts()[1].getSampling().setTopP(-1); }), "top_p"));
  BOOST_TEST(mentions(refusal([](auto step) {
                        auto starts = step.initStarts(5);
                        for (unsigned i = 0; i < 5; ++i) {
                          starts[i].setSequence(i);
                          starts[i].setPromptLength(1);
                        }
                      }),
                      "at a time"));
}

BOOST_AUTO_TEST_CASE(a_sequence_never_grows_beyond_max_model_len) {
  ShardSequences sequences(kOptions, Limits{});
  BuiltStep first({{.sequence = 1, .tokens = Numbers(12, 1), .new_blocks = {0, 1, 2}, .prompt_length = 20}});
  BOOST_REQUIRE(sequences.begin_step(first.step.asReader()).ok());
  BuiltStep second({{.sequence = 1, .start_position = 12, .tokens = Numbers(9, 1), .new_blocks = {3, 4}}});
  BOOST_TEST(mentions(sequences.begin_step(second.step.asReader()).error().message, "max_model_len"));
}

// Numbers drawn at random from small and huge ones; whatever is accepted stays inside the shard's pages.
BOOST_AUTO_TEST_CASE(no_step_however_wrong_leads_out_of_the_pages) {
  ShardSequences sequences(kOptions, Limits{});
  std::uint64_t draw = 0;
  const auto number = [&](std::uint32_t small) {
    const double uniform = philox_uniform(123, draw++);
    return uniform < 0.02 ? 0xffffffffU : static_cast<std::uint32_t>(philox_uniform(321, draw++) * small);
  };
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::vector<Part> parts(1 + number(2) % 3);
    for (Part& part : parts) {
      part = {.sequence = number(5), .tokens = Numbers(1 + number(4) % 5, number(16)), .sample = number(2) == 1};
      part.start_position = number(3) == 0 ? number(20) : 0;
      part.prompt_length = number(4) > 0 ? 1 + number(6) : 0;
      for (std::uint32_t blocks = number(4) % 5; blocks > 0; --blocks) part.new_blocks.push_back(number(8));
    }
    BuiltStep built(parts, {number(5)});
    for (auto start : built.step.getStarts()) start.getSampling().setPromptLogprobs(number(2) == 1);
    if (number(3) == 0) {
      auto guesses = built.step.initGuessCounts(static_cast<unsigned>(parts.size()));
      for (unsigned i = 0; i < parts.size(); ++i) guesses.set(i, number(4));
    }
    if (number(20) == 0) built.step.getTokenCounts().set(0, number(6));
    if (number(20) == 0) built.step.getNewBlockCounts().set(0, number(6));
    if (number(3) == 0) {
      auto copies = built.step.initCopies(number(4) % 5);
      for (auto copy : copies) copy.setFrom(number(12)), copy.setTo(number(12));
    }
    const bool begun = sequences.begin_step(built.step.asReader()).ok();
    for (const BlockCopy& copy : sequences.flat().copies) {
      BOOST_REQUIRE(std::max(copy.from, copy.to) < kOptions.num_blocks + kOptions.num_swap_blocks);
    }
    if (!begun) continue;
    ++accepted;
    const FlatStep& flat = sequences.flat();
    for (const std::uint32_t slot : flat.slots) BOOST_REQUIRE(slot < kOptions.num_blocks * kOptions.block_size);
    for (const std::uint32_t block : flat.block_tables) BOOST_REQUIRE(block < kOptions.num_blocks);
    for (const std::uint32_t row : flat.logits_rows) BOOST_REQUIRE(row < flat.tokens.size());
    for (std::size_t i = 0; i < flat.context_lengths.size(); ++i) {
      const std::uint32_t blocks = flat.block_table_starts[i + 1] - flat.block_table_starts[i];
      BOOST_REQUIRE(flat.context_lengths[i] <= blocks * kOptions.block_size);
    }
    capnp::MallocMessageBuilder message;
    const std::vector<float> logits(flat.logits_rows.size() * kOptions.vocab_size, 1);
    BOOST_REQUIRE(sequences.sample(0, 0, logits).ok());
    BOOST_REQUIRE(sequences.write_result(0, message.initRoot<schema::StepResult>()).ok());
  }
  BOOST_TEST(accepted > 1'000);
}

BOOST_AUTO_TEST_SUITE_END()
