#include "runtime/engine/sampler.h"

#include <capnp/message.h>

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "runtime/base/philox.h"

using namespace troupe;
using namespace troupe::engine;

namespace {

// The token drawn at position `position`, after a prompt of token 0 alone.
std::uint32_t draw_at(Sampler& sampler, const std::vector<float>& logits, std::size_t position,
                      const SamplingParameters& parameters) {
  const std::vector<std::uint32_t> history(position, 0);
  return sampler.sample(logits, history, static_cast<std::uint32_t>(position), parameters).value();
}

std::vector<int> draws(const std::vector<float>& logits, const SamplingParameters& parameters, int count) {
  Sampler sampler;
  std::vector<int> counts(logits.size(), 0);
  for (int position = 1; position <= count; ++position) ++counts[draw_at(sampler, logits, position, parameters)];
  return counts;
}

std::set<std::uint32_t> support(const std::vector<float>& logits, const SamplingParameters& parameters) {
  std::set<std::uint32_t> tokens;
  const std::vector<int> counts = draws(logits, parameters, 2'000);
  for (std::uint32_t token = 0; token < counts.size(); ++token) {
    if (counts[token] > 0) tokens.insert(token);
  }
  return tokens;
}

double chi_square(const std::vector<int>& counts, const std::vector<double>& probabilities) {
  const double total = std::accumulate(counts.begin(), counts.end(), 0.0);
  double sum = 0;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    const double expected = probabilities[i] * total;
    if (expected > 0) sum += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  return sum;
}

std::vector<float> logits_of(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double probability : probabilities) logits.push_back(static_cast<float>(std::log(probability)));
  return logits;
}

using Tokens = std::set<std::uint32_t>;
const std::vector<double> kProbabilities = {0.05, 0.4, 0.1, 0.25, 0.2};

}  // namespace

BOOST_AUTO_TEST_SUITE(sampler)

BOOST_AUTO_TEST_CASE(greedy_takes_the_largest_logit_and_the_lowest_id_of_equals) {
  Sampler sampler;
  SamplingParameters greedy{{.temperature = 0}};
  BOOST_TEST(draw_at(sampler, {1, 3, 2, 3, -1}, 5, greedy) == 1u);
  std::vector<float> wide(1000, -5);
  wide[777] = wide[333] = 2;
  BOOST_TEST(draw_at(sampler, wide, 1, greedy) == 333u);
}

BOOST_AUTO_TEST_CASE(draws_follow_the_softmax) {
  const SamplingParameters parameters{{.seed = 11}};
  BOOST_TEST(chi_square(draws(logits_of(kProbabilities), parameters, 4'000), kProbabilities) < 18.5);  // 4 df, 0.001
}

BOOST_AUTO_TEST_CASE(temperature_sharpens_the_distribution) {
  // At temperature 0.5 probabilities are squared and renormalised.
  std::vector<double> squared;
  for (const double p : kProbabilities) squared.push_back(p * p);
  const double total = std::accumulate(squared.begin(), squared.end(), 0.0);
  for (double& p : squared) p /= total;
  const SamplingParameters parameters{{.temperature = 0.5F, .seed = 5}};
  BOOST_TEST(chi_square(draws(logits_of(kProbabilities), parameters, 4'000), squared) < 18.5);
}

BOOST_AUTO_TEST_CASE(top_k_keeps_the_k_most_probable_and_their_proportions) {
  const SamplingParameters parameters{{.top_k = 2, .seed = 3}};
  const std::vector<int> counts = draws(logits_of(kProbabilities), parameters, 4'000);
  BOOST_TEST(counts[0] + counts[2] + counts[4] == 0);
  BOOST_TEST(chi_square(counts, {0, 0.4 / 0.65, 0, 0.25 / 0.65, 0}) < 10.8);  // 1 df, 0.001
}

BOOST_AUTO_TEST_CASE(top_k_of_equals_keeps_the_lowest_ids) {
  BOOST_TEST((support({1, 1, 1, 1, 1}, {{.top_k = 3}}) == Tokens{0, 1, 2}));
}

BOOST_AUTO_TEST_CASE(top_p_keeps_the_smallest_set_that_reaches_it) {
  const std::vector<float> logits = logits_of(kProbabilities);
  // In order of probability: 1 (0.4), 3 (0.65), 4 (0.85), 2 (0.95), 0 (1).
  BOOST_TEST((support(logits, {{.top_p = 0.3F}}) == Tokens{1}));
  BOOST_TEST((support(logits, {{.top_p = 0.5F}}) == Tokens{1, 3}));
  BOOST_TEST((support(logits, {{.top_p = 0.7F}}) == Tokens{1, 3, 4}));
  BOOST_TEST((support(logits, {{.top_p = 0.9F}}) == Tokens{1, 2, 3, 4}));
}

BOOST_AUTO_TEST_CASE(top_p_counts_what_top_k_left) {
  // Of 0.4, 0.25, 0.2 (renormalised 0.47, 0.29, 0.24) the first two reach 0.7.
  BOOST_TEST((support(logits_of(kProbabilities), {{.top_k = 3, .top_p = 0.7F}}) == Tokens{1, 3}));
}

BOOST_AUTO_TEST_CASE(a_flat_nucleus_is_found_however_wide_it_is) {
  // 2,000 equals: top_p = 0.75 keeps the 1,500 lowest ids.
  const std::vector<float> logits(2'000, 1.5F);
  Sampler sampler;
  std::uint32_t highest = 0;
  for (std::size_t position = 1; position < 400; ++position) {
    highest = std::max(highest, draw_at(sampler, logits, position, {{.top_p = 0.75F, .seed = 9}}));
  }
  BOOST_TEST(highest < 1'501u);  // rounding of the sum may keep one more
  BOOST_TEST(highest > 1'400u);
}

BOOST_AUTO_TEST_CASE(min_p_is_relative_to_the_most_probable_token) {
  const std::vector<float> logits = logits_of(kProbabilities);
  BOOST_TEST((support(logits, {{.min_p = 0.45F}}) == Tokens{1, 3, 4}));          // at least 0.18
  BOOST_TEST((support(logits, {{.top_k = 4, .min_p = 0.6F}}) == Tokens{1, 3}));  // at least 0.24
  BOOST_TEST((support(logits, {{.top_p = 0.99F, .min_p = 1}}) == Tokens{1}));
}

BOOST_AUTO_TEST_CASE(truncated_and_full_draws_agree_when_truncation_keeps_everything) {
  const std::vector<double> flat = {0.2, 0.2, 0.2, 0.2, 0.2};
  BOOST_TEST(chi_square(draws(logits_of(flat), {{.top_k = 5, .seed = 2}}, 4'000), flat) < 18.5);
  BOOST_TEST(chi_square(draws(logits_of(flat), {{.top_p = 0.9999F, .seed = 2}}, 4'000), flat) < 18.5);
}

BOOST_AUTO_TEST_CASE(the_draw_is_a_pure_function_of_seed_and_position) {
  std::vector<float> logits;
  for (int i = 0; i < 500; ++i) logits.push_back(static_cast<float>(philox_uniform(1, i) * 4));
  Sampler used, fresh;
  draw_at(used, {5, 4, 3}, 2, {{.top_k = 2, .repetition_penalty = 2}});
  int changed_by_seed = 0;
  for (std::size_t position = 1; position < 50; ++position) {
    const SamplingParameters parameters{{.top_k = 50, .top_p = 0.9F, .seed = 77}};
    BOOST_TEST(draw_at(used, logits, position, parameters) == draw_at(fresh, logits, position, parameters));
    SamplingParameters other = parameters;
    other.seed = 78;
    changed_by_seed += draw_at(used, logits, position, other) != draw_at(used, logits, position, parameters) ? 1 : 0;
  }
  BOOST_TEST(changed_by_seed > 25);
}

BOOST_AUTO_TEST_CASE(repetition_penalty_divides_positive_and_multiplies_negative_logits_once) {
  Sampler sampler;
  const std::vector<std::uint32_t> history = {0, 0, 2};
  // 4 / 2 = 2 < 3; seen twice, penalised once. -1 * 2 = -2.
  SamplingParameters greedy{{.temperature = 0, .repetition_penalty = 2}};
  BOOST_TEST(sampler.sample(std::vector<float>{4, 1.9F, -1}, history, 3, greedy).value() == 0u);
  BOOST_TEST(sampler.sample(std::vector<float>{4, 2.1F, -1}, history, 3, greedy).value() == 1u);
  BOOST_TEST(sampler.sample(std::vector<float>{-3, -1.9F, -1}, history, 3, greedy).value() == 1u);
  BOOST_TEST(sampler.sample(std::vector<float>{-3, -2.1F, -1}, history, 3, greedy).value() == 2u);
}

BOOST_AUTO_TEST_CASE(presence_and_frequency_penalties_count_generated_tokens_only) {
  Sampler sampler;
  const std::vector<std::uint32_t> history = {0, 0, 1, 1, 1, 2};  // prompt: 0, 0; generated: 1 three times, 2 once
  const auto greedy = [&](std::vector<float> logits, SamplingParameters parameters) {
    parameters.temperature = 0;
    return sampler.sample(logits, history, 2, parameters).value();
  };
  BOOST_TEST(greedy({1, 1.4F, 0}, {{.presence_penalty = 0.5F}}) == 0u);
  BOOST_TEST(greedy({1, 1.6F, 0}, {{.presence_penalty = 0.5F}}) == 1u);
  BOOST_TEST(greedy({0, 2.4F, 1.5F}, {{.frequency_penalty = 0.5F}}) == 2u);  // 2.4 - 1.5 = 0.9 < 1.5 - 0.5
  BOOST_TEST(greedy({0, 2.6F, 1.5F}, {{.frequency_penalty = 0.5F}}) == 1u);  // 1.1
  BOOST_TEST(greedy({0, 2.6F, 1.5F}, {}) == 1u);                             // nothing lingers from the calls before
}

BOOST_AUTO_TEST_CASE(logit_bias_comes_before_penalties) {
  Sampler sampler;
  const std::vector<std::uint32_t> history = {0};
  SamplingParameters parameters{{.temperature = 0, .repetition_penalty = 4}, {{0, 8}, {99, 100}}};
  // (0 + 8) / 4 = 2
  BOOST_TEST(sampler.sample(std::vector<float>{0, 1.9F}, history, 1, parameters).value() == 0u);
  BOOST_TEST(sampler.sample(std::vector<float>{0, 2.1F}, history, 1, parameters).value() == 1u);
}

BOOST_AUTO_TEST_CASE(stop_tokens_are_masked_until_min_tokens_are_generated) {
  Sampler sampler;
  SamplingParameters parameters{{.temperature = 0}};
  parameters.stop_tokens = {1};
  parameters.min_tokens = 2;
  const std::vector<float> logits = {0, 5, 1};
  BOOST_TEST(sampler.sample(logits, std::vector<std::uint32_t>{0}, 1, parameters).value() == 2u);
  BOOST_TEST(sampler.sample(logits, std::vector<std::uint32_t>{0, 2}, 1, parameters).value() == 2u);
  BOOST_TEST(sampler.sample(logits, std::vector<std::uint32_t>{0, 2, 2}, 1, parameters).value() == 1u);
}

BOOST_AUTO_TEST_CASE(a_row_from_which_nothing_can_be_drawn_is_an_error) {
  Sampler sampler;
  const std::vector<std::uint32_t> history = {0};
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  BOOST_TEST(!sampler.sample(std::vector<float>{0, nan, 1}, history, 1, {}).ok());
  BOOST_TEST(!sampler.sample(std::vector<float>{0, infinity}, history, 1, {}).ok());
  BOOST_TEST(!sampler.sample(std::vector<float>{-infinity, -infinity}, history, 1, {}).ok());
  BOOST_TEST(!sampler.sample(std::vector<float>{1}, history, 1, {.stop_tokens = {0}, .min_tokens = 1}).ok());
  std::vector<float> wide(100, 0);
  wide[37] = nan;
  BOOST_TEST(!sampler.sample(wide, history, 1, {}).ok());
}

BOOST_AUTO_TEST_CASE(logprobs_are_those_of_the_unmodified_logits_best_first) {
  Sampler sampler;
  RatedToken rated;
  sampler.rate(logits_of({0.1, 0.2, 0.4, 0.2, 0.1}), 0, 3, rated);
  BOOST_TEST(rated.chosen.token == 0u);
  BOOST_TEST(std::abs(rated.chosen.logprob - std::log(0.1)) < 1e-5);
  BOOST_REQUIRE(rated.top.size() == 3u);
  BOOST_TEST(rated.top[0].token == 2u);
  BOOST_TEST(rated.top[1].token == 1u);
  BOOST_TEST(rated.top[2].token == 3u);
  BOOST_TEST(std::abs(rated.top[1].logprob - std::log(0.2)) < 1e-5);
  sampler.rate(logits_of({0.5, 0.5}), 1, 20, rated);
  BOOST_TEST(rated.top.size() == 2u);
}

BOOST_AUTO_TEST_CASE(the_best_of_a_large_vocabulary_are_those_of_a_full_sort) {
  constexpr std::size_t kVocab = 150'000;
  std::vector<float> logits(kVocab);
  for (std::size_t i = 0; i < kVocab; ++i) logits[i] = std::floor(static_cast<float>(philox_uniform(8, i) * 5'000));
  std::vector<std::uint32_t> sorted(kVocab);
  std::iota(sorted.begin(), sorted.end(), 0u);
  std::stable_sort(sorted.begin(), sorted.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
  Sampler sampler;
  RatedToken rated;
  for (const std::uint32_t count : {1u, 2u, 20u, 300u}) {
    sampler.rate(logits, 0, count, rated);
    BOOST_REQUIRE(rated.top.size() == count);
    for (std::uint32_t i = 0; i < count; ++i) BOOST_REQUIRE(rated.top[i].token == sorted[i]);
  }
}

BOOST_AUTO_TEST_CASE(parameters_out_of_range_are_refused_by_their_api_name) {
  const auto refused = [](auto set) {
    capnp::MallocMessageBuilder message;
    auto sampling = message.initRoot<schema::Sampling>();
    set(sampling);
    SamplingParameters parameters;
    const Result<void> read = read_sampling(sampling.asReader(), Limits{}, parameters);
    return read.ok() ? "" : read.error().param;
  };
  const float nan = std::numeric_limits<float>::quiet_NaN();
  BOOST_TEST(refused([](auto) {}) == "");
  BOOST_TEST(refused([](auto s) { s.setTemperature(-0.1F); }) == "temperature");
  BOOST_TEST(refused([&](auto s) { s.setTemperature(nan); }) == "temperature");
  BOOST_TEST(refused([](auto s) { s.setTopP(0); }) == "top_p");
  BOOST_TEST(refused([](auto s) { s.setTopP(1.1F); }) == "top_p");
  BOOST_TEST(refused([](auto s) { s.setMinP(2); }) == "min_p");
  BOOST_TEST(refused([](auto s) { s.setRepetitionPenalty(0); }) == "repetition_penalty");
  BOOST_TEST(refused([&](auto s) { s.setPresencePenalty(nan); }) == "presence_penalty");
  BOOST_TEST(refused([](auto s) { s.setFrequencyPenalty(1e30F); }) == "frequency_penalty");
  BOOST_TEST(refused([](auto s) { s.setTopLogprobs(21); }) == "top_logprobs");
  BOOST_TEST(refused([](auto s) { s.initLogitBias(1)[0].setBias(101); }) == "logit_bias");
  BOOST_TEST(refused([](auto s) { s.initLogitBias(1025); }) == "logit_bias");
}

BOOST_AUTO_TEST_SUITE_END()
