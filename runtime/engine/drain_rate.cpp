#include "runtime/engine/drain_rate.h"

namespace troupe::engine {

namespace {

constexpr double kHorizonNs = 5e9;  // beyond it the past counts half
constexpr double kLeastNs = 2e8;    // less tells too little

}  // namespace

void DrainRate::step(std::uint64_t now_ns, std::uint64_t tokens_begun, bool others_wait) {
  if (waiting_since_ns_) {
    waited_ns_ += static_cast<double>(now_ns - *waiting_since_ns_);
    tokens_ += static_cast<double>(tokens_begun);
  }
  while (waited_ns_ > kHorizonNs) {
    waited_ns_ /= 2;
    tokens_ /= 2;
  }
  waiting_since_ns_.reset();
  if (others_wait) waiting_since_ns_ = now_ns;
}

double DrainRate::tokens_per_s() const {
  if (waited_ns_ < kLeastNs) return 0;
  return (tokens_ + 1) / waited_ns_ * 1e9;  // one more: a queue that stands still is slow, not unknown
}

}  // namespace troupe::engine
