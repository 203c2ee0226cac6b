#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/engine/sampling_parameters.h"

namespace troupe::engine {

struct TokenScore {
  std::uint32_t token = 0;
  float logprob = 0;  // natural logarithm, of the distribution before temperature and truncation
};

struct RatedToken {
  TokenScore chosen;
  std::vector<TokenScore> top;  // most probable first, ties by token id
};

// Turns a row of logits into a token. What it returns is a pure function of its arguments; the members are only
// scratch memory, so that nothing is allocated after the first calls. Used by one thread at a time.
class Sampler {
 public:
  // The token at position history.size(). `logits`: (vocabulary). `history`: prompt, then generated tokens.
  // Order: logit bias, penalties, temperature, top-k, top-p, min-p, draw; among equals the lowest id comes first.
  // REQUIRES: 1 <= prompt_length <= history.size(); every token of history < logits.size().
  // Errors: the row holds NaN or +infinity, or nothing but -infinity once stop tokens are masked.
  Result<std::uint32_t> sample(std::span<const float> logits, std::span<const std::uint32_t> history,
                               std::uint32_t prompt_length, const SamplingParameters& parameters);

  // Rates `token` and the `top_count` most probable tokens by the log-softmax of the unmodified logits.
  // REQUIRES: token < logits.size()
  void rate(std::span<const float> logits, std::uint32_t token, std::uint32_t top_count, RatedToken& rated);

 private:
  struct Candidate {
    float logit;
    std::uint32_t token;
  };

  // The logits with bias, penalties and mask: in row_, or `logits` itself when nothing changes it.
  std::span<const float> modified(std::span<const float> logits, std::span<const std::uint32_t> history,
                                  std::uint32_t prompt_length, const SamplingParameters& parameters);
  void penalize(std::span<const std::uint32_t> history, std::uint32_t prompt_length,
                const SamplingParameters& parameters);
  // candidates_ = the `count` largest of `row` that are neither NaN nor -infinity, best first.
  void select_top(std::span<const float> row, std::size_t count);
  // Draws from the whole row, in token order.
  std::uint32_t draw_from_row(std::span<const float> row, float max_logit, const SamplingParameters& parameters,
                              double uniform);
  // Draws from what top-k and top-p leave, best first.
  std::uint32_t draw_from_top(std::span<const float> row, float max_logit, const SamplingParameters& parameters,
                              double uniform);

  std::vector<float> row_;                // (vocabulary): modified logits
  std::vector<float> weights_;            // of row or candidates: exp((logit - max) / temperature)
  std::vector<Candidate> candidates_;     // truncated support, best first
  std::vector<std::uint32_t> generated_;  // (vocabulary): how often generated; all zero between calls
  std::vector<std::uint8_t> seen_;        // (vocabulary): in the history; all zero between calls
};

}  // namespace troupe::engine
