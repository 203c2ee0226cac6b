#include "runtime/engine/step_budget.h"

#include <algorithm>
#include <cmath>

namespace troupe::engine {

namespace {

constexpr double kNoise = 0.1;                    // standard deviation of a step's time, as a share of it
constexpr double kDrift = 0.03;                   // of a coefficient from one step to the next, as a share of it
constexpr double kOutlier = 4;                    // times the expected: longer steps were held up by something else
constexpr std::uint64_t kSettled = 16;            // steps until outliers are recognised
constexpr double kNewest = 0.1;                   // weight of the newest step in the average of a prompt token's time
constexpr std::uint32_t kLeastPrefillTokens = 4;  // of a step, however long it takes: prompts must go on
constexpr std::uint64_t kMixedSteps = 16;         // until one has to go without prompts

void move_towards(double& average, double value) {
  // A step that was shorter than its decodes alone must not make prompts free for ever.
  average = average <= 0 ? std::max(value, 1.0) : std::max(average + kNewest * (value - average), 1.0);
}

}  // namespace

void StepBudget::observe(const StepWork& work, std::uint64_t took_ns) {
  if (took_ns == 0) return;
  double took = static_cast<double>(took_ns);
  const double expected = predict_ns(work);
  if (expected > 0 && decode_steps_ >= kSettled) took = std::min(took, kOutlier * expected);
  if (work.prefill_tokens == 0) {
    observe_decodes(work.decode_tokens, took);
    mixed_steps_ = 0;
  } else if (work.decode_tokens == 0) {
    move_towards(token_alone_ns_, took / work.prefill_tokens);
  } else {
    if (decode_steps_ > 0) move_towards(token_beside_ns_, (took - decode_ns(work.decode_tokens)) / work.prefill_tokens);
    ++mixed_steps_;
  }
}

void StepBudget::observe_decodes(std::uint32_t tokens, double took_ns) {
  const std::array<double, 2> h = {1, static_cast<double>(tokens)};
  if (decode_steps_++ == 0) {
    // Either part may have been all of the first step.
    for (std::size_t i = 0; i < 2; ++i) covariance_[i][i] = std::pow(took_ns / std::max(h[i], 1.0), 2);
  }
  covariance_[0][0] += std::pow(kDrift * base_ns_, 2);
  covariance_[1][1] += std::pow(kDrift * decode_token_ns_, 2);
  const std::array<double, 2> ph = {covariance_[0][0] * h[0] + covariance_[0][1] * h[1],
                                    covariance_[1][0] * h[0] + covariance_[1][1] * h[1]};
  const double variance = h[0] * ph[0] + h[1] * ph[1] + std::pow(kNoise * took_ns, 2);
  const double error = took_ns - decode_ns(tokens);
  base_ns_ = std::max(0.0, base_ns_ + ph[0] / variance * error);
  decode_token_ns_ = std::max(0.0, decode_token_ns_ + ph[1] / variance * error);
  for (std::size_t i = 0; i < 2; ++i) {
    for (std::size_t j = 0; j < 2; ++j) covariance_[i][j] -= ph[i] * ph[j] / variance;
  }
}

void StepBudget::observe_copies(std::uint32_t blocks, std::uint64_t took_ns) {
  if (blocks > 0 && took_ns > 0) move_towards(copy_ns_, static_cast<double>(took_ns) / blocks);
}

double StepBudget::prefill_token_ns(bool beside_decodes) const {
  const double first = beside_decodes ? token_beside_ns_ : token_alone_ns_;
  return first > 0 ? first : beside_decodes ? token_alone_ns_ : token_beside_ns_;
}

double StepBudget::predict_ns(const StepWork& work) const {
  const double prefill = prefill_token_ns(work.decode_tokens > 0) * work.prefill_tokens;
  return prefill + (work.decode_tokens > 0 ? decode_ns(work.decode_tokens) : 0);
}

std::uint32_t StepBudget::prefill_tokens(std::uint32_t decode_tokens, std::uint32_t waiting, std::uint32_t most) const {
  const double each = prefill_token_ns(true);
  if (stall_percent_ == 0 || decode_tokens == 0 || decode_steps_ == 0 || each <= 0) return most;
  const double more_wait = std::max(1.0, static_cast<double>(waiting) / decode_tokens);
  const double stall = decode_ns(decode_tokens) * more_wait * static_cast<double>(stall_percent_) / 100;
  const double tokens = std::min(stall / each, static_cast<double>(most));
  return std::min(most, std::max(kLeastPrefillTokens, static_cast<std::uint32_t>(tokens)));
}

bool StepBudget::wants_decodes_alone() const { return stall_percent_ > 0 && mixed_steps_ >= kMixedSteps; }

double StepBudget::prefill_ns(std::uint64_t tokens, std::uint32_t decode_tokens, std::uint32_t most) const {
  const double each = prefill_token_ns(decode_tokens > 0);
  if (each <= 0) return 0;
  const double decodes = decode_tokens > 0 ? decode_ns(decode_tokens) : 0;
  const double steps = std::ceil(static_cast<double>(tokens) / prefill_tokens(decode_tokens, 0, most));
  return steps * decodes + static_cast<double>(tokens) * each;
}

}  // namespace troupe::engine
