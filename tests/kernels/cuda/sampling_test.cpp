#include "kernels/cuda/sampling.h"

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <set>

#include "runtime/engine/sampler.h"
#include "tests/kernels/cuda/test_gpu.h"
#include "tests/kernels/implementations.h"

using namespace troupe;
using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(gpu_sampling)

struct Request {
  engine::SamplingParameters parameters;
  std::vector<std::uint32_t> history;
  std::uint32_t prompt_length = 1;
};

struct Sampled {
  std::vector<std::uint32_t> tokens;
  std::vector<float> logprobs;
  std::vector<std::uint32_t> top_tokens;
  std::vector<float> top_logprobs;
};

constexpr std::size_t kMostTop = 5;

Sampled sample_on(TestGpu& gpu, Strided& logits, const std::vector<Request>& requests) {
  std::vector<SamplingRow> rows;
  std::vector<std::uint32_t> history, bias_tokens, masked;
  std::vector<float> bias_values;
  for (const auto& [parameters, tokens, prompt_length] : requests) {
    SamplingRow& row = rows.emplace_back();
    static_cast<DrawParameters&>(row) = parameters;
    row.position = static_cast<std::uint32_t>(tokens.size());
    row.prompt_length = prompt_length;
    row.history[0] = static_cast<std::uint32_t>(history.size());
    if (parameters.has_penalties()) history.insert(history.end(), tokens.begin(), tokens.end());
    row.history[1] = static_cast<std::uint32_t>(history.size());
    row.biases[0] = static_cast<std::uint32_t>(bias_tokens.size());
    for (const auto& [token, bias] : parameters.logit_bias) {
      bias_tokens.push_back(token);
      bias_values.push_back(bias);
    }
    row.biases[1] = static_cast<std::uint32_t>(bias_tokens.size());
    row.masked[0] = static_cast<std::uint32_t>(masked.size());
    if (tokens.size() - prompt_length < parameters.min_tokens) {
      masked.insert(masked.end(), parameters.stop_tokens.begin(), parameters.stop_tokens.end());
    }
    row.masked[1] = static_cast<std::uint32_t>(masked.size());
  }
  const auto view = logits.view();
  SampleCall call;
  call.logits = gpu.upload(view.data, view.rows * view.row_stride);
  call.rows = view.rows;
  call.vocabulary = view.cols;
  call.row_stride = view.row_stride;
  call.parameters = gpu.upload(rows.data(), rows.size());
  call.history = gpu.upload(history.data(), history.size());
  call.bias_tokens = gpu.upload(bias_tokens.data(), bias_tokens.size());
  call.bias_values = gpu.upload(bias_values.data(), bias_values.size());
  call.masked = gpu.upload(masked.data(), masked.size());
  call.tokens = gpu.room<std::uint32_t>(view.rows);
  call.logprobs = gpu.room<float>(view.rows);
  call.top_tokens = gpu.room<std::uint32_t>(view.rows * kMostTop);
  call.top_logprobs = gpu.room<float>(view.rows * kMostTop);
  call.most_top_logprobs = kMostTop;
  call.workspace = gpu.room<std::byte>(sample_workspace_bytes(view.rows, view.cols));
  TROUPE_GPU_CALL(sample, gpu.stream(), call);
  return {.tokens = gpu.download(call.tokens, view.rows),
          .logprobs = gpu.download(call.logprobs, view.rows),
          .top_tokens = gpu.download(call.top_tokens, view.rows * kMostTop),
          .top_logprobs = gpu.download(call.top_logprobs, view.rows * kMostTop)};
}

// Requires what the host's sampler gives; returns the tokens.
std::vector<std::uint32_t> compare(TestGpu& gpu, Strided& logits, const std::vector<Request>& requests) {
  const Sampled sampled = sample_on(gpu, logits, requests);
  engine::Sampler sampler;
  for (std::size_t row = 0; row < requests.size(); ++row) {
    const auto& [parameters, history, prompt_length] = requests[row];
    const std::span<const float> of_row(logits.view().row(row), logits.view().cols);
    const auto expected = sampler.sample(of_row, history, prompt_length, parameters);
    BOOST_TEST_CONTEXT("vocabulary " << of_row.size() << " temperature " << parameters.temperature << " top_k "
                                     << parameters.top_k << " top_p " << parameters.top_p << " min_p "
                                     << parameters.min_p) {
      if (!expected.ok()) {
        BOOST_REQUIRE_EQUAL(sampled.tokens[row], kNoToken);
        continue;
      }
      BOOST_REQUIRE_EQUAL(sampled.tokens[row], *expected);
    }
    if (!parameters.logprobs) continue;
    engine::RatedToken rated;
    sampler.rate(of_row, *expected, parameters.top_logprobs, rated);
    const auto require_close = [](float logprob, float wanted) {
      BOOST_REQUIRE(logprob == wanted || std::abs(logprob - wanted) <= 2e-7f * std::abs(wanted));
    };
    require_close(sampled.logprobs[row], rated.chosen.logprob);
    for (std::size_t i = 0; i < parameters.top_logprobs; ++i) {
      const std::uint32_t token = sampled.top_tokens[row * kMostTop + i];
      if (i >= rated.top.size()) {
        BOOST_REQUIRE_EQUAL(token, kNoToken);
      } else {
        BOOST_REQUIRE_EQUAL(token, rated.top[i].token);
        require_close(sampled.top_logprobs[row * kMostTop + i], rated.top[i].logprob);
      }
    }
  }
  return sampled.tokens;
}

template <class T>
T one_of(Random& random, std::initializer_list<T> values) {
  return values.begin()[random.pick(0, values.size() - 1)];
}

Request any_request(std::size_t vocabulary, Random& random) {
  const auto any_token = [&] { return static_cast<std::uint32_t>(random.pick(0, vocabulary - 1)); };
  Request request;
  auto& parameters = request.parameters;
  parameters.temperature = one_of(random, {0.0f, 0.3f, 1.0f, 1.0f, 1.7f});
  parameters.top_k = one_of(random, {0u, 0u, 1u, 3u, 40u, 5000u});
  parameters.top_p = one_of(random, {1.0f, 1.0f, 0.95f, 0.5f, 0.01f, 0.9999f});
  parameters.min_p = one_of(random, {0.0f, 0.0f, 0.05f, 0.9f});
  if (random.pick(0, 2) == 0) {
    parameters.repetition_penalty = one_of(random, {1.0f, 1.3f, 0.8f});
    parameters.presence_penalty = one_of(random, {0.0f, 0.7f, -1.0f});
    parameters.frequency_penalty = one_of(random, {0.0f, 0.3f});
  }
  parameters.seed = random.pick(0, SIZE_MAX);
  if (random.pick(0, 2) == 0) {
    // Some of them twice, some beyond the vocabulary.
    for (std::size_t i = random.pick(0, 20); i > 0; --i) {
      parameters.logit_bias.emplace_back(random.pick(0, vocabulary + 1), one_of(random, {-100.0f, 1.7f, 0.1f, 5.0f}));
    }
  }
  parameters.logprobs = random.pick(0, 1) == 0;
  parameters.top_logprobs = static_cast<std::uint32_t>(random.pick(0, kMostTop));
  parameters.min_tokens = static_cast<std::uint32_t>(random.pick(0, 10));
  for (std::size_t i = random.pick(0, 3); i > 0; --i) parameters.stop_tokens.push_back(any_token());
  for (std::size_t i = random.pick(1, 40); i > 0; --i) {
    request.history.push_back(request.history.empty() || random.pick(0, 3) > 0 ? any_token() : request.history.back());
  }
  request.prompt_length = static_cast<std::uint32_t>(random.pick(1, request.history.size()));
  return request;
}

BOOST_AUTO_TEST_CASE(tokens_are_those_of_the_hosts_sampler) {
  Random random(1);
  for (const auto& device : gpus_to_test()) {
    for (int round = 0; round < 150; ++round) {
      TestGpu gpu(*device);
      const std::size_t rows = random.pick(1, 3);
      const std::size_t vocabulary = one_of<std::size_t>(random, {1, 2, 31, 513, 1000, 4100, random.pick(1, 3000)});
      Strided logits(rows, vocabulary, random.pick(0, 3), random, one_of(random, {0.01f, 1.0f, 3.0f, 30.0f}));
      std::vector<Request> requests;
      for (std::size_t row = 0; row < rows; ++row) {
        requests.push_back(any_request(vocabulary, random));
        for (std::size_t i = 0; i < vocabulary; ++i) {
          float& logit = logits.view().row(row)[i];
          if (round % 3 == 1) logit = std::round(logit);  // ties, zeros of either sign among them
          if (round % 4 == 2 && random.pick(0, 2) == 0) logit = -INFINITY;
        }
      }
      compare(gpu, logits, requests);
    }
  }
}

// One distribution drawn from again and again: a weight that is off would show as a token that is not the host's.
BOOST_AUTO_TEST_CASE(many_draws_from_one_row_agree) {
  Random random(2);
  for (const auto& device : gpus_to_test()) {
    TestGpu gpu(*device);
    const std::size_t rows = 160, vocabulary = 700;
    Strided logits(rows, vocabulary, 0, random);
    std::vector<Request> requests(rows);
    for (std::size_t row = 0; row < rows; ++row) {
      std::copy_n(logits.view().row(0), vocabulary, logits.view().row(row));
      requests[row].history = {1};
      requests[row].parameters.seed = row;
      requests[row].parameters.top_p = row % 2 == 0 ? 1.0f : 0.9f;
    }
    const auto tokens = compare(gpu, logits, requests);
    BOOST_TEST(std::set<std::uint32_t>(tokens.begin(), tokens.end()).size() > 40u);
  }
}

BOOST_AUTO_TEST_CASE(a_row_without_a_finite_maximum_gives_no_token) {
  for (const auto& device : gpus_to_test()) {
    TestGpu gpu(*device);
    Strided logits(4, 600, 0);
    for (std::size_t row = 0; row < 4; ++row) std::fill_n(logits.view().row(row), 600, row == 2 ? -INFINITY : 1.0f);
    logits.view().row(0)[599] = NAN;
    logits.view().row(1)[3] = INFINITY;
    std::vector<Request> requests(4);
    for (auto& request : requests) {
      request.history = {0};
      request.parameters.temperature = 0;
    }
    const auto tokens = compare(gpu, logits, requests);
    BOOST_TEST(tokens == (std::vector<std::uint32_t>{kNoToken, kNoToken, kNoToken, 0}));
  }
}

// Of equal logits, the nucleus takes the lower tokens, and the running sum is one of whole numbers: exact.
BOOST_AUTO_TEST_CASE(equal_logits_are_drawn_in_the_order_of_their_tokens) {
  for (const auto& device : gpus_to_test()) {
    TestGpu gpu(*device);
    const std::size_t rows = 40, vocabulary = 1500;
    Strided logits(rows, vocabulary, 0);
    std::vector<Request> requests(rows);
    for (std::size_t row = 0; row < rows; ++row) {
      std::fill_n(logits.view().row(row), vocabulary, row % 2 == 0 ? 0.0f : -3.5f);
      requests[row].history = {1};
      requests[row].parameters.seed = row * 1234567;
      requests[row].parameters.top_p = row % 4 < 2 ? 0.5f : 1.0f;
      requests[row].parameters.top_k = row % 3 == 0 ? 100 : 0;
    }
    compare(gpu, logits, requests);
  }
}

BOOST_AUTO_TEST_SUITE_END()
