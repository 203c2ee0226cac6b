#include "cluster/bench/latency_histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace troupe::cluster {
namespace {

// Values are whole microseconds. Those below kExact have a bucket each; every doubling after that has kSteps of them.
constexpr std::uint64_t kSteps = 256;
constexpr std::uint64_t kExact = 2 * kSteps;
constexpr int kExactBits = 9;
static_assert(std::uint64_t{1} << kExactBits == kExact);
constexpr double kLargestUs = 68'719'476'735;  // 2^36 - 1: 19 hours

std::size_t bucket_of(std::uint64_t us) {
  if (us < kExact) return us;
  const int doublings = std::bit_width(us) - kExactBits;
  return kExact + static_cast<std::size_t>(doublings - 1) * kSteps + ((us >> doublings) - kSteps);
}

double middle_s(std::size_t bucket) {
  if (bucket < kExact) return 1e-6 * static_cast<double>(bucket);
  const std::size_t doublings = (bucket - kExact) / kSteps + 1;
  const std::uint64_t low = ((bucket - kExact) % kSteps + kSteps) << doublings;
  return 1e-6 * (static_cast<double>(low) + 0.5 * static_cast<double>((std::uint64_t{1} << doublings) - 1));
}

}  // namespace

void LatencyHistogram::add(double seconds) {
  const double us = std::clamp(std::round(seconds * 1e6), 0.0, kLargestUs);
  const std::size_t bucket = bucket_of(static_cast<std::uint64_t>(us));
  if (bucket >= counts_.size()) counts_.resize(bucket + 1);
  ++counts_[bucket];
  const double kept = std::clamp(seconds, 0.0, kLargestUs * 1e-6);
  min_s_ = count_ == 0 ? kept : std::min(min_s_, kept);
  max_s_ = std::max(max_s_, kept);
  sum_s_ += kept;
  ++count_;
}

double LatencyHistogram::value_at(std::uint64_t position) const {
  if (position == 0) return min_s_;
  if (position + 1 >= count_) return max_s_;
  std::uint64_t below = 0;
  for (std::size_t bucket = 0; bucket < counts_.size(); ++bucket) {
    below += counts_[bucket];
    if (position < below) return std::clamp(middle_s(bucket), min_s_, max_s_);
  }
  return max_s_;
}

double LatencyHistogram::percentile_s(double share) const {
  if (count_ == 0) return 0;
  const double position = share * static_cast<double>(count_ - 1);
  const auto low = static_cast<std::uint64_t>(position);
  const double first = value_at(low);
  return first + (value_at(low + 1) - first) * (position - static_cast<double>(low));
}

std::vector<std::pair<double, double>> LatencyHistogram::cdf(std::size_t max_points) const {
  std::vector<std::pair<double, double>> points;
  if (count_ == 0 || max_points < 2) return points;
  std::vector<std::size_t> used;
  for (std::size_t bucket = 0; bucket < counts_.size(); ++bucket) {
    if (counts_[bucket] > 0) used.push_back(bucket);
  }
  // The first point and the last one are always there; between them every n-th bucket ends a point.
  const std::size_t every = std::max<std::size_t>(1, (used.size() + max_points - 3) / (max_points - 1));
  std::uint64_t below = 0;
  points.emplace_back(min_s_, 0);
  for (std::size_t i = 0; i < used.size(); ++i) {
    below += counts_[used[i]];
    const bool last = i + 1 == used.size();
    if (!last && (i + 1) % every != 0) continue;
    const double value = last ? max_s_ : std::clamp(middle_s(used[i]), min_s_, max_s_);
    points.emplace_back(value, static_cast<double>(below) / static_cast<double>(count_));
  }
  return points;
}

}  // namespace troupe::cluster
