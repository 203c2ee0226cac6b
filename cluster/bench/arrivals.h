#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "cluster/bench/random_stream.h"
#include "cluster/bench/trace.h"

namespace troupe::cluster {

// When the requests of an open loop are due: whether or not earlier ones have been answered. A plain value.
class Arrivals {
 public:
  // Poisson arrivals: the first at once, then gaps of mean 1 / rate (requests a second, > 0).
  static Arrivals poisson(double rate, std::uint64_t seed);

  // The times of a trace, each multiplied by `scale` (>= 0; 0 = all at once); after its last request none are due.
  static Arrivals of_trace(std::shared_ptr<const Trace> trace, double scale);

  // Seconds after the start at which the next request is due, never before the last one; nothing = there are no more.
  std::optional<double> next_s();

 private:
  explicit Arrivals(std::uint64_t seed) : random_(seed, RandomStream::Purpose::kArrivals) {}

  RandomStream random_;
  double rate_ = 0;
  double due_s_ = 0;
  std::shared_ptr<const Trace> trace_;
  double scale_ = 1;
  std::size_t next_ = 0;
};

}  // namespace troupe::cluster
