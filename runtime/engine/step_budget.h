#pragma once

#include <array>
#include <cstdint>

namespace troupe::engine {

// What a step computes.
struct StepWork {
  std::uint32_t prefill_tokens = 0;  // of prompts, and of answers that are computed again
  std::uint32_t decode_tokens = 0;
};

// How many prompt tokens a step takes along without holding up the answers that run: they may lengthen the step by
// `stall_percent` of what it would take with its decodes alone. Where more wait for their first token than answers run,
// by that as often as there are more of them: everybody gets the same part of the time, and a batch fills up before the
// first answers are half done. Of the times of earlier steps it knows
//   a step of decodes: base + per_token * decode_tokens, two coefficients that a Kalman filter follows (a random walk
//     for each of them, noise in proportion to the time), and
//   a prompt token: an average of recent steps, of those with decodes (less what these take) and of those without.
// Where prompts come without end, no step would show any more what decodes alone take: now and then one has to go
// without prompts. Deterministic: times come as arguments. Used by one thread.
class StepBudget {
 public:
  // 0: no bound.
  explicit StepBudget(std::uint64_t stall_percent) : stall_percent_(stall_percent) {}

  // A step took so long from being sent to its result. No time at all tells nothing, and is ignored.
  void observe(const StepWork& work, std::uint64_t took_ns);

  // Expected time of a step; 0 when nothing is known of its kind.
  double predict_ns(const StepWork& work) const;

  // Prompt tokens for a step that decodes so many tokens besides, while so many sequences wait for their first token,
  // at most `most`. All of `most` when nothing is decoded or too little is known yet; never none, so that prompts
  // always go on.
  std::uint32_t prefill_tokens(std::uint32_t decode_tokens, std::uint32_t waiting, std::uint32_t most) const;

  // Whether the next step that decodes is to go without prompts.
  bool wants_decodes_alone() const;

  // So many KV blocks were copied in so long.
  void observe_copies(std::uint32_t blocks, std::uint64_t took_ns);
  double copy_ns(std::uint32_t blocks) const { return blocks * copy_ns_; }  // 0 when nothing is known

  // Time for `tokens` of prompts, in steps of at most `most` that decode so many tokens besides; 0 when not known.
  double prefill_ns(std::uint64_t tokens, std::uint32_t decode_tokens, std::uint32_t most) const;

 private:
  void observe_decodes(std::uint32_t tokens, double took_ns);
  double decode_ns(std::uint32_t tokens) const { return base_ns_ + decode_token_ns_ * tokens; }
  double prefill_token_ns(bool beside_decodes) const;

  const std::uint64_t stall_percent_;
  double base_ns_ = 0, decode_token_ns_ = 0;           // neither is negative
  std::array<std::array<double, 2>, 2> covariance_{};  // of these two
  std::uint64_t decode_steps_ = 0;                     // that decoded and nothing else
  std::uint64_t mixed_steps_ = 0;                      // since the last of them
  double token_alone_ns_ = 0, token_beside_ns_ = 0;    // a prompt token without and beside decodes; 0 = not known
  double copy_ns_ = 0;                                 // of a block; 0 = not known
};

}  // namespace troupe::engine
