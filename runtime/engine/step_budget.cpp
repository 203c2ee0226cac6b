#include "runtime/engine/step_budget.h"

#include <algorithm>
#include <cmath>

namespace troupe::engine {

namespace {

constexpr double kNoise = 0.1;                    // standard deviation of a step's time, as a share of it
constexpr double kDrift = 0.05;                   // of a coefficient from one step to the next, as a share of it
constexpr double kOutlier = 4;                    // times the expected: longer steps were held up by something else
constexpr std::uint64_t kSettled = 16;            // observations until outliers are recognised
constexpr std::uint32_t kLeastPrefillTokens = 8;  // of a step, however long it takes: prompts must go on

}  // namespace

StepBudget::Vector StepBudget::features(const StepWork& work) {
  return {1, static_cast<double>(work.prefill_tokens), static_cast<double>(work.decode_tokens)};
}

void StepBudget::observe(const StepWork& work, std::uint64_t took_ns) {
  if (took_ns == 0) return;
  const Vector h = features(work);
  double took = static_cast<double>(took_ns);
  if (observations_ == 0) {
    // Any part of the first step may have been all of it.
    for (std::size_t i = 0; i < kCoefficients; ++i) covariance_[i][i] = std::pow(took / std::max(h[i], 1.0), 2);
  } else if (observations_ >= kSettled) {
    took = std::min(took, kOutlier * predict_ns(work));
  }
  ++observations_;
  knows_prefill_ |= work.prefill_tokens > 0;
  knows_decode_ |= work.decode_tokens > 0;

  Vector ph{};
  double variance = std::pow(kNoise * took, 2);
  double error = took;
  for (std::size_t i = 0; i < kCoefficients; ++i) {
    covariance_[i][i] += std::pow(kDrift * coefficients_[i], 2);
    for (std::size_t j = 0; j < kCoefficients; ++j) ph[i] += covariance_[i][j] * h[j];
    variance += h[i] * ph[i];
    error -= h[i] * coefficients_[i];
  }
  for (std::size_t i = 0; i < kCoefficients; ++i) {
    const double gain = ph[i] / variance;
    coefficients_[i] = std::max(0.0, coefficients_[i] + gain * error);
    for (std::size_t j = 0; j < kCoefficients; ++j) covariance_[i][j] -= gain * ph[j];
  }
}

double StepBudget::predict_ns(const StepWork& work) const {
  const Vector h = features(work);
  double time = 0;
  for (std::size_t i = 0; i < kCoefficients; ++i) time += h[i] * coefficients_[i];
  return time;
}

std::uint32_t StepBudget::prefill_tokens(std::uint32_t decode_tokens, std::uint32_t most) const {
  const double each = coefficients_[1];
  if (stall_percent_ == 0 || decode_tokens == 0 || !knows_prefill_ || !knows_decode_ || each <= 0) return most;
  const double stall = predict_ns({.decode_tokens = decode_tokens}) * static_cast<double>(stall_percent_) / 100;
  const double tokens = std::min(stall / each, static_cast<double>(most));
  return std::min(most, std::max(kLeastPrefillTokens, static_cast<std::uint32_t>(tokens)));
}

double StepBudget::prefill_ns(std::uint64_t tokens, std::uint32_t decode_tokens, std::uint32_t most) const {
  if (!knows_prefill_) return 0;
  const std::uint32_t a_step = prefill_tokens(decode_tokens, most);
  const double steps = std::ceil(static_cast<double>(tokens) / a_step);
  return steps * predict_ns({.decode_tokens = decode_tokens}) + static_cast<double>(tokens) * coefficients_[1];
}

}  // namespace troupe::engine
