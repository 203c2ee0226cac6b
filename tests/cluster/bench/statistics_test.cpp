#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <vector>

#include "cluster/bench/latency_histogram.h"
#include "cluster/bench/random_stream.h"
#include "cluster/bench/time_series.h"

namespace troupe::cluster {
namespace {

// The definition: position share * (count - 1) of the sorted values, interpolated.
double exact_percentile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  const double position = share * static_cast<double>(values.size() - 1);
  const auto low = static_cast<std::size_t>(position);
  const std::size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (values[high] - values[low]) * (position - static_cast<double>(low));
}

constexpr double kShares[] = {0, 0.01, 0.25, 0.5, 0.9, 0.95, 0.99, 0.999, 1};

}  // namespace

BOOST_AUTO_TEST_CASE(percentiles_are_those_of_the_sorted_values) {
  RandomStream random(4, RandomStream::Purpose::kSample);
  for (const std::size_t count : {1u, 2u, 3u, 7u, 100u, 5000u}) {
    for (const double deviation : {0.1, 1.0, 3.0}) {
      LatencyHistogram histogram;
      std::vector<double> values;
      double sum = 0;
      for (std::size_t i = 0; i < count; ++i) {
        values.push_back(0.02 * std::exp(deviation * random.normal()));
        histogram.add(values.back());
        sum += values.back();
      }
      BOOST_TEST_CONTEXT(count << " values, deviation " << deviation) {
        for (const double share : kShares) {
          const double exact = exact_percentile(values, share);
          BOOST_TEST(std::abs(histogram.percentile_s(share) - exact) <= 0.003 * exact + 1e-6, share);
        }
        BOOST_TEST(histogram.count() == count);
        BOOST_TEST(histogram.max_s() == exact_percentile(values, 1));
        BOOST_TEST(histogram.mean_s() == sum / static_cast<double>(count), boost::test_tools::tolerance(1e-9));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(durations_beyond_all_measure_are_kept_in_bounds) {
  LatencyHistogram histogram;
  for (const double value : {-1.0, 0.0, 1e-9, 1e12}) histogram.add(value);
  BOOST_TEST(histogram.percentile_s(0) == 0);
  BOOST_TEST(histogram.percentile_s(1) == 68'719.476735);
  BOOST_TEST(LatencyHistogram().percentile_s(0.5) == 0);
}

BOOST_AUTO_TEST_CASE(a_cdf_rises_from_nothing_to_all_in_few_points) {
  LatencyHistogram histogram;
  for (int i = 1; i <= 10000; ++i) histogram.add(1e-4 * i);
  const auto points = histogram.cdf(50);
  BOOST_TEST(points.size() <= 50u);
  BOOST_TEST(points.size() > 40u);
  BOOST_TEST(points.front().second == 0);
  BOOST_TEST(points.back().first == 1.0);
  BOOST_TEST(points.back().second == 1.0);
  for (std::size_t i = 1; i < points.size(); ++i) {
    BOOST_TEST(points[i].first >= points[i - 1].first);
    BOOST_TEST(points[i].second >= points[i - 1].second);
    // The values are uniform: the share is the value.
    BOOST_TEST(std::abs(points[i].second - points[i].first) < 0.01);
  }
  BOOST_TEST(LatencyHistogram().cdf(50).empty());
}

BOOST_AUTO_TEST_CASE(a_series_keeps_its_sums_however_long_the_run) {
  TimeSeries series;
  double at_s = 0;
  for (int i = 0; i < 5000; ++i, at_s += 0.31) {
    series.set_in_flight(at_s, static_cast<std::uint32_t>(i % 9));
    series.add_tokens(at_s, 2);
    series.add_answer(at_s);
  }
  BOOST_TEST(series.intervals().size() <= TimeSeries::kMaxIntervals);
  BOOST_TEST(series.intervals().size() > TimeSeries::kMaxIntervals / 2 - 1);
  double tokens = 0;
  std::uint32_t answered = 0, most = 0;
  for (const auto& interval : series.intervals()) {
    tokens += interval.output_tokens;
    answered += interval.answered;
    most = std::max(most, interval.in_flight);
  }
  BOOST_TEST(tokens == 10000);
  BOOST_TEST(answered == 5000u);
  BOOST_TEST(most == 8u);
}

BOOST_AUTO_TEST_CASE(what_is_under_way_fills_the_intervals_in_which_nothing_changes) {
  TimeSeries series;
  series.set_in_flight(0.05, 3);
  series.set_in_flight(0.55, 0);
  series.set_in_flight(0.8, 1);
  std::vector<std::uint32_t> levels;
  for (const auto& interval : series.intervals()) levels.push_back(interval.in_flight);
  const std::vector<std::uint32_t> expected = {3, 3, 3, 3, 3, 0, 1};
  BOOST_TEST(levels == expected, boost::test_tools::per_element());
}

}  // namespace troupe::cluster
