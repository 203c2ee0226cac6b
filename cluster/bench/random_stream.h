#pragma once

#include <cstdint>

#include "runtime/base/philox.h"

namespace troupe::cluster {

// A sequence of random numbers that belongs to (seed, purpose, index): whoever asks again, in whatever order, on
// whatever machine, gets the same one.
class RandomStream {
 public:
  // What the numbers are for; streams of different purposes are independent.
  enum class Purpose : std::uint32_t { kRequest, kWarmup, kSharedPrefix, kTraceBlock, kArrivals, kSample };

  RandomStream(std::uint64_t seed, Purpose purpose, std::uint64_t index = 0);

  std::uint32_t next();
  std::uint32_t below(std::uint32_t bound);  // 0 .. bound - 1; REQUIRES: bound > 0
  double uniform();                          // [0, 1), 53 bits
  double exponential(double rate);           // mean 1 / rate
  double normal();                           // mean 0, deviation 1

 private:
  PhiloxKey key_;
  PhiloxCounter counter_;
  PhiloxCounter block_{};
  unsigned used_ = 4;
};

}  // namespace troupe::cluster
