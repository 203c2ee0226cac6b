#include "runtime/engine/step_cost.h"

#include <algorithm>

namespace troupe::engine {

namespace {

constexpr double kFading = 0.98;      // of all weights with each observation: about the last 50 count
constexpr double kHiccup = 2;         // times what was expected
constexpr double kTrustedWeight = 8;  // observations before anything is taken for a hiccup

}  // namespace

void StepCost::observe(double rows, double ns) {
  if (weight_ >= kTrustedWeight) ns = std::min(ns, kHiccup * this->ns(rows));
  weight_ = kFading * weight_ + 1;
  rows_ = kFading * rows_ + rows;
  ns_ = kFading * ns_ + ns;
  rows_squared_ = kFading * rows_squared_ + rows * rows;
  rows_ns_ = kFading * rows_ns_ + rows * ns;
}

double StepCost::ns_a_row() const {
  if (weight_ == 0) return 0;
  const double variance = rows_squared_ / weight_ - rows_ * rows_ / (weight_ * weight_);
  const double covariance = rows_ns_ / weight_ - rows_ * ns_ / (weight_ * weight_);
  constexpr double kLeastVariance = 1e-6;
  if (variance < kLeastVariance) return 0;
  // Rows neither save time nor cost more than all the time there is.
  return std::clamp(covariance / variance, 0.0, ns_ / rows_);
}

double StepCost::ns(double rows) const {
  return weight_ == 0 ? 0 : ns_ / weight_ + ns_a_row() * (rows - rows_ / weight_);
}

}  // namespace troupe::engine
