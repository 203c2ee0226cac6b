#include "runtime/engine/sampler.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "runtime/base/philox.h"

namespace troupe::engine {

namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// Four numbers by the compiler's extension, as every machine has them: from arrays of lanes GCC makes single numbers.
constexpr std::size_t kLanes = 4;
using Floats [[gnu::vector_size(kLanes * sizeof(float))]] = float;
using Ints [[gnu::vector_size(kLanes * sizeof(int))]] = int;

// The largest value; NaN when the row holds one.
float max_of(std::span<const float> row) {
  constexpr std::size_t kChains = 4;
  Floats max[kChains];
  for (Floats& chain : max) chain = Floats{} + kNever;
  Ints unordered = {};
  std::size_t i = 0;
  for (; i + kChains * kLanes <= row.size(); i += kChains * kLanes) {
#pragma GCC unroll 4
    for (std::size_t chain = 0; chain < kChains; ++chain) {
      Floats values;
      std::memcpy(&values, row.data() + i + chain * kLanes, sizeof values);
      max[chain] = values > max[chain] ? values : max[chain];
      unordered |= values != values;
    }
  }
  for (; i < row.size(); ++i) {
    max[0][0] = row[i] > max[0][0] ? row[i] : max[0][0];
    unordered[0] |= static_cast<int>(row[i] != row[i]);
  }
  float highest = kNever;
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    if (unordered[lane] != 0) return std::numeric_limits<float>::quiet_NaN();
    for (const Floats& chain : max) highest = std::max(highest, chain[lane]);
  }
  return highest;
}

std::uint32_t first_of(std::span<const float> row, float value) {
  return static_cast<std::uint32_t>(std::find(row.begin(), row.end(), value) - row.begin());
}

// exp((logit - max) / temperature). Below e^-50 a draw with 53 bits cannot tell a weight from nothing.
float weight_of(float logit, float max_logit, float temperature) {
  constexpr float kSmallestExponent = -50;
  const float exponent = (logit - max_logit) / temperature;
  return exponent < kSmallestExponent ? 0 : std::exp(exponent);
}

// The first index at which the running sum exceeds uniform * total.
std::size_t draw(std::span<const float> weights, double total, double uniform) {
  const double target = uniform * total;
  double sum = 0;
  std::size_t last = 0;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] == 0) continue;
    sum += weights[i];
    last = i;
    if (sum > target) break;
  }
  return last;
}

}  // namespace

Result<std::uint32_t> Sampler::sample(std::span<const float> logits, std::span<const std::uint32_t> history,
                                      std::uint32_t prompt_length, const SamplingParameters& parameters) {
  assert(prompt_length >= 1 && prompt_length <= history.size());
  const std::span<const float> row = modified(logits, history, prompt_length, parameters);
  const float max_logit = max_of(row);
  if (!std::isfinite(max_logit)) {
    return internal_error("the logits at position " + std::to_string(history.size() - 1) +
                          " have no finite maximum: nothing can be drawn from them");
  }
  if (parameters.temperature == 0 || parameters.top_k == 1) return first_of(row, max_logit);
  const double uniform = philox_uniform(parameters.seed, history.size());
  const bool top_k = parameters.top_k > 0 && parameters.top_k < row.size();
  return top_k || parameters.top_p < 1 ? draw_from_top(row, max_logit, parameters, uniform)
                                       : draw_from_row(row, max_logit, parameters, uniform);
}

std::uint32_t Sampler::draw_from_row(std::span<const float> row, float max_logit, const SamplingParameters& parameters,
                                     double uniform) {
  weights_.resize(row.size());
  double total = 0;
  for (std::size_t token = 0; token < row.size(); ++token) {
    const float weight = weight_of(row[token], max_logit, parameters.temperature);
    weights_[token] = weight >= parameters.min_p ? weight : 0;  // the most probable token weighs 1
    total += weights_[token];
  }
  return static_cast<std::uint32_t>(draw(weights_, total, uniform));
}

std::uint32_t Sampler::draw_from_top(std::span<const float> row, float max_logit, const SamplingParameters& parameters,
                                     double uniform) {
  constexpr std::size_t kFirstGuess = 128;
  const bool top_k = parameters.top_k > 0 && parameters.top_k < row.size();
  double whole = 0;  // what top-p is a part of
  if (!top_k) {
    for (const float logit : row) whole += weight_of(logit, max_logit, parameters.temperature);
  }
  // The nucleus is usually small: look at few candidates first, and at more only if they do not reach top_p.
  for (std::size_t count = top_k ? parameters.top_k : kFirstGuess;; count *= 8) {
    select_top(row, std::min(count, row.size()));
    weights_.clear();
    double sum = 0;
    for (const Candidate& candidate : candidates_) {
      weights_.push_back(weight_of(candidate.logit, max_logit, parameters.temperature));
      sum += weights_.back();
    }
    if (top_k) whole = sum;
    if (top_k || count >= row.size() || sum >= parameters.top_p * whole) break;
  }
  double total = 0;
  std::size_t kept = 0;
  while (kept < weights_.size() && weights_[kept] >= parameters.min_p &&
         (kept == 0 || parameters.top_p == 1 || total < parameters.top_p * whole)) {
    total += weights_[kept++];
  }
  return candidates_[draw(std::span(weights_).first(kept), total, uniform)].token;
}

void Sampler::rate(std::span<const float> logits, std::uint32_t token, std::uint32_t top_count, RatedToken& rated) {
  const float max_logit = max_of(logits);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max_logit);
  const double log_sum = max_logit + std::log(sum);
  const auto score = [&](std::uint32_t scored, float logit) {
    return TokenScore{.token = scored, .logprob = static_cast<float>(logit - log_sum)};
  };
  rated.chosen = score(token, logits[token]);
  rated.top.clear();
  if (top_count == 0) return;
  select_top(logits, std::min<std::size_t>(top_count, logits.size()));
  for (const Candidate& candidate : candidates_) rated.top.push_back(score(candidate.token, candidate.logit));
}

std::span<const float> Sampler::modified(std::span<const float> logits, std::span<const std::uint32_t> history,
                                         std::uint32_t prompt_length, const SamplingParameters& parameters) {
  const bool masks = history.size() - prompt_length < parameters.min_tokens && !parameters.stop_tokens.empty();
  if (parameters.logit_bias.empty() && !parameters.has_penalties() && !masks) return logits;
  row_.assign(logits.begin(), logits.end());
  for (const auto& [token, bias] : parameters.logit_bias) {
    if (token < row_.size()) row_[token] += bias;
  }
  if (parameters.has_penalties()) penalize(history, prompt_length, parameters);
  if (masks) {
    for (const std::uint32_t token : parameters.stop_tokens) {
      if (token < row_.size()) row_[token] = kNever;
    }
  }
  return row_;
}

void Sampler::penalize(std::span<const std::uint32_t> history, std::uint32_t prompt_length,
                       const SamplingParameters& parameters) {
  if (seen_.size() < row_.size()) {
    seen_.resize(row_.size());
    generated_.resize(row_.size());
  }
  for (const std::uint32_t token : history) seen_[token] = 1;
  for (const std::uint32_t token : history.subspan(prompt_length)) ++generated_[token];
  for (const std::uint32_t token : history) {
    if (seen_[token] == 0) continue;  // done at its first occurrence
    float& logit = row_[token];
    logit = logit > 0 ? logit / parameters.repetition_penalty : logit * parameters.repetition_penalty;
    if (generated_[token] > 0) {
      logit -= parameters.presence_penalty + parameters.frequency_penalty * static_cast<float>(generated_[token]);
    }
    seen_[token] = 0;
    generated_[token] = 0;
  }
}

void Sampler::select_top(std::span<const float> row, std::size_t count) {
  const auto better = [](const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
  };
  // Collects twice what is wanted before it throws the worse half away, so that each value costs constant time.
  const std::size_t room = 2 * count;
  const auto shrink = [&] {
    std::nth_element(candidates_.begin(), candidates_.begin() + static_cast<std::ptrdiff_t>(count) - 1,
                     candidates_.end(), better);
    candidates_.resize(count);
  };
  candidates_.clear();
  float threshold = kNever;
  for (std::size_t token = 0; token < row.size(); ++token) {
    // An equal value later in the row is worse than what is held: its token is higher.
    if (!(row[token] > threshold)) continue;
    candidates_.push_back({row[token], static_cast<std::uint32_t>(token)});
    if (candidates_.size() < room) continue;
    shrink();
    threshold = candidates_.back().logit;
  }
  if (candidates_.size() > count) shrink();
  std::sort(candidates_.begin(), candidates_.end(), better);
}

}  // namespace troupe::engine
