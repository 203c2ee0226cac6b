#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/engine/step_cost.h"

namespace troupe::engine {

// A guess must bring so many times what it costs: estimates are rough.
inline constexpr double kLeastProfit = 1.1;

// Of a step's time, that a row is thought to cost at the least: no row is free.
inline constexpr double kLeastShare = 0.02;

// How often guesses come true, lately. A value; deterministic.
class Acceptance {
 public:
  // Of `guesses` in a row the first `accepted` came true. What comes after the first wrong one says nothing.
  void observe(std::uint32_t guesses, std::uint32_t accepted);

  // The probability that a guess comes true when those before it did. While little was seen, near `prior`.
  double rate(double prior) const;

 private:
  double trials_ = 0;
  double successes_ = 0;
};

// A sequence that could be given guesses in a step.
struct GuessCandidate {
  std::uint32_t most = 0;  // guesses
  double acceptance = 0;   // Acceptance::rate of its guesses
};

// How many guesses to give each of the candidates, at most `rows_left` in all, so that the step brings the most tokens
// per time: guesses are taken in the order of what they are expected to bring, for as long as one brings more for the
// time of its row than the step does without it. `decodes`: sequences of the step that get a token in any case, the
// candidates among them.
std::vector<std::uint32_t> guess_lengths(std::span<const GuessCandidate> candidates, std::uint32_t decodes,
                                         std::uint32_t rows_left, const StepCost& cost);

}  // namespace troupe::engine
