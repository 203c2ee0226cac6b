#pragma once

#include <array>
#include <cstdint>

namespace troupe::engine {

// What a step computes.
struct StepWork {
  std::uint32_t prefill_tokens = 0;  // of prompts, and of answers that are computed again
  std::uint32_t decode_tokens = 0;
};

// How many prompt tokens a step takes along without holding up the answers that run: a prompt's piece may lengthen
// the step by `stall_percent` of what it would take with its decodes alone. The time of a step is taken to be
//   base + per_prefill_token * prefill_tokens + per_decode_token * decode_tokens,
// with coefficients that a Kalman filter follows from step to step (a random walk for each of them, noise in proportion
// to the time). Deterministic: times come as arguments. Used by one thread.
class StepBudget {
 public:
  // 0: no bound.
  explicit StepBudget(std::uint64_t stall_percent) : stall_percent_(stall_percent) {}

  // A step took so long from being sent to its result. No time at all tells nothing, and is ignored.
  void observe(const StepWork& work, std::uint64_t took_ns);

  // Expected time of a step; 0 before the first observation.
  double predict_ns(const StepWork& work) const;

  // Prompt tokens for a step that decodes so many tokens besides, at most `most`. All of `most` when nothing is
  // decoded or too little is known yet; never none, so that prompts always go on.
  std::uint32_t prefill_tokens(std::uint32_t decode_tokens, std::uint32_t most) const;

  // Time for `tokens` of prompts, in steps of at most `most` that decode so many tokens besides; 0 when not known.
  double prefill_ns(std::uint64_t tokens, std::uint32_t decode_tokens, std::uint32_t most) const;

 private:
  static constexpr std::size_t kCoefficients = 3;
  using Vector = std::array<double, kCoefficients>;

  static Vector features(const StepWork& work);

  const std::uint64_t stall_percent_;
  Vector coefficients_{};                           // ns: base, a prefill token, a decode token; none is negative
  std::array<Vector, kCoefficients> covariance_{};  // of them
  std::uint64_t observations_ = 0;
  bool knows_prefill_ = false;
  bool knows_decode_ = false;
};

}  // namespace troupe::engine
