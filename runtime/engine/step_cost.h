#pragma once

#include <cstdint>

namespace troupe::engine {

// How long a step takes by its rows (tokens): a straight line through what was measured lately, by least squares with
// fading weights. Times may jump about: one that is far above the line is taken for a hiccup and counts only in part.
// Deterministic; no clock of its own. Used by one thread.
class StepCost {
 public:
  void observe(double rows, double ns);

  // Before two different widths were seen a row is thought to cost nothing beyond the first: trying shows.
  double ns(double rows) const;  // 0 while nothing was observed
  double ns_a_row() const;

 private:
  // Sums over observations, weighted.
  double weight_ = 0;
  double rows_ = 0;
  double ns_ = 0;
  double rows_squared_ = 0;
  double rows_ns_ = 0;
};

}  // namespace troupe::engine
