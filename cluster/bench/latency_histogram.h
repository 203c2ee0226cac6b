#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace troupe::cluster {

// Many durations in bounded memory: counts in buckets whose width grows with the value (as in HdrHistogram), so that a
// value read back is within 0.2 % of the one put in, or within a microsecond. Count, sum, least and largest are exact.
class LatencyHistogram {
 public:
  void add(double seconds);  // negative ones count as 0, what exceeds 19 hours as 19 hours

  std::uint64_t count() const { return count_; }
  double mean_s() const { return count_ == 0 ? 0 : sum_s_ / static_cast<double>(count_); }
  double max_s() const { return max_s_; }

  // For `share` in [0, 1]: the value at position share * (count - 1) of the sorted values, interpolated linearly
  // between neighbours. 0 without values.
  double percentile_s(double share) const;

  // (seconds, share of the values that are not above it), ascending, at most so many points.
  std::vector<std::pair<double, double>> cdf(std::size_t max_points) const;

 private:
  double value_at(std::uint64_t position) const;  // of the sorted values

  std::vector<std::uint64_t> counts_;  // by bucket; grows with the largest value
  std::uint64_t count_ = 0;
  double sum_s_ = 0;
  double min_s_ = 0;
  double max_s_ = 0;
};

}  // namespace troupe::cluster
