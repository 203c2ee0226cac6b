#include "runtime/engine/guess_length.h"

#include <algorithm>

namespace troupe::engine {

namespace {

constexpr double kFading = 0.9;     // of what was seen, with each observation: the last ten count
constexpr double kPriorTrials = 2;  // what the prior is worth

}  // namespace

void Acceptance::observe(std::uint32_t guesses, std::uint32_t accepted) {
  trials_ = kFading * trials_ + std::min(guesses, accepted + 1);
  successes_ = kFading * successes_ + accepted;
}

double Acceptance::rate(double prior) const { return (successes_ + kPriorTrials * prior) / (trials_ + kPriorTrials); }

std::vector<std::uint32_t> guess_lengths(std::span<const GuessCandidate> candidates, std::uint32_t decodes,
                                         std::uint32_t rows_left, const StepCost& cost) {
  std::vector<std::uint32_t> lengths(candidates.size(), 0);
  // The next guess of each that may have one, by what it is expected to bring; the best on top.
  struct Next {
    double tokens;
    std::size_t candidate;
    bool operator<(const Next& other) const {
      return tokens != other.tokens ? tokens < other.tokens : candidate > other.candidate;
    }
  };
  std::vector<Next> heap;
  for (std::size_t i = 0; i < candidates.size(); ++i) {
    if (candidates[i].most > 0) heap.push_back({candidates[i].acceptance, i});
  }
  std::make_heap(heap.begin(), heap.end());
  double tokens = decodes;
  double ns = cost.ns(decodes);
  const double ns_a_guess = std::max(cost.ns_a_row(), kLeastShare * ns);
  for (; !heap.empty() && rows_left > 0; --rows_left) {
    std::pop_heap(heap.begin(), heap.end());
    const Next best = heap.back();
    heap.pop_back();
    if (best.tokens * ns <= kLeastProfit * ns_a_guess * tokens) break;
    tokens += best.tokens;
    ns += ns_a_guess;
    const GuessCandidate& candidate = candidates[best.candidate];
    if (++lengths[best.candidate] == candidate.most) continue;
    heap.push_back({best.tokens * candidate.acceptance, best.candidate});
    std::push_heap(heap.begin(), heap.end());
  }
  return lengths;
}

}  // namespace troupe::engine
