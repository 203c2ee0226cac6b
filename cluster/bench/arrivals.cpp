#include "cluster/bench/arrivals.h"

#include <utility>

namespace troupe::cluster {

Arrivals Arrivals::poisson(double rate, std::uint64_t seed) {
  Arrivals arrivals(seed);
  arrivals.rate_ = rate;
  return arrivals;
}

Arrivals Arrivals::of_trace(std::shared_ptr<const Trace> trace, double scale) {
  Arrivals arrivals(0);
  arrivals.trace_ = std::move(trace);
  arrivals.scale_ = scale;
  return arrivals;
}

std::optional<double> Arrivals::next_s() {
  if (trace_ != nullptr) {
    if (next_ == trace_->requests.size()) return std::nullopt;
    return trace_->requests[next_++].arrival_s * scale_;
  }
  return std::exchange(due_s_, due_s_ + random_.exponential(rate_));
}

}  // namespace troupe::cluster
