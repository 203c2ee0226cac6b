#include "actors/device_draw.h"

#include <capnp/message.h>

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <random>
#include <vector>

#include "kernels/cuda/cuda_kernels.h"

using namespace troupe;

namespace {

using Tokens = std::vector<std::uint32_t>;

constexpr std::uint32_t kVocabulary = 40;
constexpr engine::ShardSequencesOptions kOptions = {.num_blocks = 64,
                                                    .block_size = 4,
                                                    .max_model_len = 40,
                                                    .max_batch_tokens = 64,
                                                    .max_batch_sequences = 8,
                                                    .max_sequences = 8,
                                                    .vocab_size = kVocabulary};

class Random {
 public:
  explicit Random(std::uint32_t seed) : engine_(seed) {}
  std::uint32_t below(std::uint32_t count) { return static_cast<std::uint32_t>(engine_() % count); }
  std::uint32_t token() { return below(kVocabulary); }
  template <class T>
  T one_of(std::initializer_list<T> values) {
    return values.begin()[below(static_cast<std::uint32_t>(values.size()))];
  }
  std::vector<float> logits(std::size_t rows) {
    std::vector<float> values(rows * kVocabulary);
    for (float& value : values) value = std::normal_distribution<float>(0, 2)(engine_);
    return values;
  }

 private:
  std::mt19937 engine_;
};

void choose_sampling(Random& random, schema::SequenceStart::Builder start) {
  auto sampling = start.initSampling();
  sampling.setTemperature(random.one_of({0.0f, 0.7f, 1.0f}));
  sampling.setTopK(random.one_of({0u, 1u, 5u}));
  sampling.setTopP(random.one_of({1.0f, 0.8f}));
  sampling.setMinP(random.one_of({0.0f, 0.1f}));
  sampling.setRepetitionPenalty(random.one_of({1.0f, 1.3f}));
  sampling.setFrequencyPenalty(random.one_of({0.0f, 0.5f}));
  sampling.setSeed(random.below(1000));
  sampling.setLogprobs(random.below(2) == 0);
  sampling.setTopLogprobs(random.below(4));
  sampling.setPromptLogprobs(random.below(3) == 0);
  auto biases = sampling.initLogitBias(random.below(3));
  for (auto bias : biases) {
    bias.setToken(random.token());
    bias.setBias(random.one_of({-100.0f, 3.0f}));
  }
  start.setMinTokens(random.below(4));
  start.setStopTokens({3, 5, 8});
}

// Some sequences that start: each with a prompt of 6 tokens, or in their generation with guesses.
struct FirstStep {
  explicit FirstStep(Random& random) {
    const unsigned size = 1 + random.below(5);
    std::vector<std::uint32_t> tokens, blocks;
    auto sequences = step.initSequences(size);
    auto counts = step.initTokenCounts(size), positions = step.initStartPositions(size);
    auto new_blocks = step.initNewBlockCounts(size), guesses = step.initGuessCounts(size);
    auto sample = step.initSample(size);
    auto starts = step.initStarts(size);
    for (unsigned i = 0; i < size; ++i) {
      const bool generates = random.below(2) == 0;
      const unsigned count = generates ? 1 + random.below(4) : 6;
      starts[i].setSequence(i);
      starts[i].setPromptLength(generates ? 4 : 6);
      if (generates) starts[i].setCachedTokens({random.token(), random.token(), random.token(), 3, 3});
      choose_sampling(random, starts[i]);
      sequences.set(i, i);
      counts.set(i, count);
      positions.set(i, generates ? 5 : 0);
      new_blocks.set(i, 3);
      guesses.set(i, generates ? count - 1 : 0);
      sample.set(i, generates || random.below(4) != 0);
      for (unsigned k = 0; k < count; ++k) tokens.push_back(random.token());
      for (std::uint32_t k = 0; k < 3; ++k) blocks.push_back(3 * i + k);
    }
    step.setTokens({tokens.data(), tokens.size()});
    step.setNewBlocks({blocks.data(), blocks.size()});
  }

  capnp::MallocMessageBuilder message;
  schema::Step::Builder step = message.initRoot<schema::Step>();
};

struct Written {
  explicit Written(engine::ShardSequences& sequences, std::uint64_t step = 0) {
    BOOST_REQUIRE(sequences.write_result(step, message.initRoot<schema::StepResult>()).ok());
    result = message.getRoot<schema::StepResult>().asReader();
    for (const auto rated : result.getLogprobs()) add(rated);
    for (const auto prompt : result.getPromptLogprobs()) {
      for (const auto rated : prompt.getItems()) add(rated);
    }
  }
  void add(schema::TokenLogprobs::Reader rated) {
    tokens.push_back(rated.getChosen().getToken());
    logprobs.push_back(rated.getChosen().getLogprob());
    for (const auto other : rated.getTop()) {
      tokens.push_back(other.getToken());
      logprobs.push_back(other.getLogprob());
    }
  }

  capnp::MallocMessageBuilder message;
  schema::StepResult::Reader result;
  Tokens tokens;  // of everything that is rated, and their logprobs
  std::vector<float> logprobs;
};

void check_same(const Written& written, const Written& expected) {
  BOOST_TEST(written.tokens == expected.tokens, boost::test_tools::per_element());
  BOOST_TEST(written.result.getTokens().size() == expected.result.getTokens().size());
  BOOST_REQUIRE(written.logprobs.size() == expected.logprobs.size());
  for (std::size_t i = 0; i < written.logprobs.size(); ++i) {
    const float a = written.logprobs[i], b = expected.logprobs[i];
    // Of a token that is all but certain, the logprob is what rounding has left of the difference of larger numbers.
    BOOST_TEST_INFO(a << " instead of " << b);
    BOOST_TEST(((std::isnan(a) && std::isnan(b)) || std::abs(a - b) <= 1e-6f * std::abs(b) + 1e-7f));
  }
}

// Everything that the first step draws one token for goes on with that.
struct NextStep {
  explicit NextStep(FirstStep& first) {
    step.initFence().setStep(1);
    std::vector<std::uint64_t> sequences;
    std::vector<std::uint32_t> positions;
    const auto before = first.step.asReader();
    for (unsigned i = 0; i < before.getSequences().size(); ++i) {
      if (!before.getSample()[i] || before.getGuessCounts()[i] > 0) continue;
      sequences.push_back(before.getSequences()[i]);
      positions.push_back(before.getStartPositions()[i] + before.getTokenCounts()[i]);
    }
    const auto size = static_cast<unsigned>(sequences.size());
    step.setSequences({sequences.data(), size});
    step.setStartPositions({positions.data(), size});
    auto counts = step.initTokenCounts(size), tokens = step.initTokens(size);
    step.initNewBlockCounts(size);
    auto sample = step.initSample(size);
    for (unsigned i = 0; i < size; ++i) {
      counts.set(i, 1);
      tokens.set(i, schema::SAMPLED_TOKEN);
      sample.set(i, true);
    }
  }

  capnp::MallocMessageBuilder message;
  schema::Step::Builder step = message.initRoot<schema::Step>();
};

// Makes the guesses of a step likely to come true: the token before which they stand gets a logit that wins.
void favour_guesses(Random& random, const engine::FlatStep& flat, std::vector<float>& logits) {
  for (std::size_t i = 0; i < flat.logits_rows.size(); ++i) {
    const std::uint32_t row = flat.logits_rows[i];
    if (row + 1 == flat.tokens.size() || random.below(4) == 0) continue;
    logits[i * kVocabulary + flat.tokens[row + 1]] += 30;
  }
}

struct Gpu {
  std::unique_ptr<kernels::Kernels> kernels = kernels::make_cuda_kernels(kernels::open_emulated_gpu()).value();

  // The step begun last drawn on the device, its logits coming in pieces.
  void launch(DeviceDraw& draw, engine::ShardSequences& sequences, const std::vector<float>& logits,
              std::size_t rows_at_a_time) const {
    kernels::DeviceMemory& memory = kernels->memory();
    auto* const there = static_cast<float*>(memory.allocate(logits.size() * sizeof(float), "a test").value());
    memory.upload(there, logits.data(), logits.size() * sizeof(float));
    draw.begin(sequences);
    const std::size_t rows = logits.size() / kVocabulary;
    for (std::size_t first = 0; first < rows; first += rows_at_a_time) {
      draw.draw(first, {there + first * kVocabulary, std::min(rows_at_a_time, rows - first), kVocabulary});
    }
    draw.send();
    memory.release(there, logits.size() * sizeof(float));
  }
  Result<void> draw(DeviceDraw& draw, engine::ShardSequences& sequences, const std::vector<float>& logits,
                    std::size_t rows_at_a_time) const {
    launch(draw, sequences, logits, rows_at_a_time);
    TROUPE_RETURN_IF_ERROR(kernels->memory().synchronize());
    return draw.finish(0, sequences);
  }
};

}  // namespace

BOOST_FIXTURE_TEST_SUITE(device_draw, Gpu)

BOOST_AUTO_TEST_CASE(a_step_drawn_on_a_device_has_the_result_of_one_drawn_on_the_host) {
  DeviceDraw draw(*kernels->sampler());
  std::size_t all_drawn = 0, all_guesses = 0;
  for (std::uint32_t seed = 0; seed < 40; ++seed) {
    Random random(seed);
    FirstStep first(random);
    engine::ShardSequences here(kOptions, Limits{}), there(kOptions, Limits{});
    for (engine::ShardSequences* sequences : {&here, &there}) {
      const auto begun = sequences->begin_step(first.step.asReader());
      BOOST_REQUIRE_MESSAGE(begun.ok(), (begun.ok() ? "" : begun.error().message));
    }
    std::vector<float> logits = random.logits(here.flat().logits_rows.size());
    favour_guesses(random, here.flat(), logits);
    if (logits.empty()) continue;
    BOOST_REQUIRE(here.sample(0, 0, logits).ok());
    BOOST_REQUIRE(this->draw(draw, there, logits, 1 + random.below(8)).ok());
    const Written expected(here), written(there);
    BOOST_TEST_CONTEXT("seed " << seed) { check_same(written, expected); }
    all_drawn += expected.result.getTokens().size();
    for (const std::uint32_t count : first.step.asReader().getGuessCounts()) all_guesses += count;
  }
  // Some guesses came true and some did not.
  BOOST_TEST(all_drawn > 60u);
  BOOST_TEST(all_guesses > 60u);
}

// Two steps are with the device; what the second goes on with the first has not told the host yet.
BOOST_AUTO_TEST_CASE(a_step_that_is_launched_before_tokens_are_known_has_the_result_of_one_that_is_not) {
  DeviceDraw draw(*kernels->sampler());
  std::size_t open = 0, postponed = 0;
  for (std::uint32_t seed = 0; seed < 150; ++seed) {
    Random random(seed);
    FirstStep first(random);
    engine::ShardSequences here(kOptions, Limits{}), there(kOptions, Limits{});
    BOOST_REQUIRE(here.begin_step(first.step.asReader()).ok());
    BOOST_REQUIRE(there.begin_step(first.step.asReader()).ok());
    const std::vector<float> logits = random.logits(here.flat().logits_rows.size());
    NextStep second(first);
    if (second.step.getSequences().size() == 0) continue;
    if (there.needs_drawn(second.step.asReader())) {
      ++postponed;
      continue;
    }
    BOOST_REQUIRE(here.sample(0, 0, logits).ok());
    const Written expected_first(here, 0);
    BOOST_REQUIRE(here.begin_step(second.step.asReader()).ok());
    const std::vector<float> second_logits = random.logits(here.flat().logits_rows.size());
    BOOST_REQUIRE(here.sample(1, 0, second_logits).ok());
    const Written expected_second(here, 1);

    launch(draw, there, logits, 3);
    BOOST_REQUIRE(there.begin_step(second.step.asReader()).ok());
    BOOST_TEST(!there.flat().token_sources.empty());
    launch(draw, there, second_logits, 3);
    BOOST_REQUIRE(kernels->memory().synchronize().ok());
    BOOST_REQUIRE(draw.finish(0, there).ok());
    BOOST_REQUIRE(draw.finish(1, there).ok());
    const Written written_first(there, 0), written_second(there, 1);
    BOOST_TEST_CONTEXT("seed " << seed) {
      check_same(written_first, expected_first);
      check_same(written_second, expected_second);
    }
    ++open;
  }
  BOOST_TEST(open > 10u);
  BOOST_TEST(postponed > 20u);
}

BOOST_AUTO_TEST_CASE(steps_that_nobody_waits_for_any_more_leave_the_next_ones_as_they_are) {
  DeviceDraw draw(*kernels->sampler());
  Random random(1);
  for (std::uint32_t seed = 0; seed < 10; ++seed) {
    FirstStep forgotten(random), first(random);
    engine::ShardSequences here(kOptions, Limits{}), there(kOptions, Limits{});
    for (int step = 0; step < 2; ++step) {
      there.clear();
      BOOST_REQUIRE(there.begin_step(forgotten.step.asReader()).ok());
      launch(draw, there, random.logits(there.flat().logits_rows.size()), 8);
    }
    there.clear();
    draw.forget();
    BOOST_REQUIRE(here.begin_step(first.step.asReader()).ok());
    BOOST_REQUIRE(there.begin_step(first.step.asReader()).ok());
    const std::vector<float> logits = random.logits(here.flat().logits_rows.size());
    BOOST_REQUIRE(here.sample(0, 0, logits).ok());
    BOOST_REQUIRE(this->draw(draw, there, logits, 8).ok());
    const Written expected(here), written(there);
    check_same(written, expected);
  }
}

BOOST_AUTO_TEST_CASE(a_row_from_which_nothing_can_be_drawn_is_an_error_unless_its_guess_was_wrong) {
  DeviceDraw draw(*kernels->sampler());
  for (const bool comes_true : {true, false}) {
    capnp::MallocMessageBuilder message;
    auto step = message.initRoot<schema::Step>();
    auto start = step.initStarts(1)[0];
    start.setPromptLength(1);
    start.initSampling().setTemperature(0);
    step.setSequences({0});
    step.setTokenCounts({2});
    step.setStartPositions({0});
    step.setNewBlockCounts({1});
    step.setNewBlocks({0});
    step.setTokens({1, 7});
    step.setSample({true});
    step.setGuessCounts({1});
    engine::ShardSequences sequences(kOptions, Limits{});
    BOOST_REQUIRE(sequences.begin_step(step.asReader()).ok());
    std::vector<float> logits(2 * kVocabulary, 0.0f);
    logits[comes_true ? 7 : 9] = 1;
    logits[kVocabulary + 2] = NAN;
    const auto done = this->draw(draw, sequences, logits, 2);
    BOOST_TEST(done.ok() == !comes_true);
    if (!done.ok()) BOOST_TEST(done.error().message.find("position 1") != std::string::npos);
  }
}

BOOST_AUTO_TEST_SUITE_END()
