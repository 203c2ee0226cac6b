#pragma once

#include <cstdint>
#include <vector>

namespace troupe::cluster {

// What happened in each interval of a run. The intervals grow with the run, so that there are never more than
// kMaxIntervals of them.
class TimeSeries {
 public:
  static constexpr std::size_t kMaxIntervals = 400;

  struct Interval {
    double output_tokens = 0;
    std::uint32_t answered = 0;   // requests whose answer was whole
    std::uint32_t in_flight = 0;  // the most at any moment
  };

  // Times are seconds after the start, >= 0, in any order.
  void add_tokens(double at_s, double tokens);
  void add_answer(double at_s);

  // So many requests are under way from `at_s` on. REQUIRES: not before the last call's time.
  void set_in_flight(double at_s, std::uint32_t in_flight);

  double interval_s() const { return interval_s_; }
  const std::vector<Interval>& intervals() const { return intervals_; }

 private:
  Interval& at(double time_s);
  void halve();

  double interval_s_ = 0.125;
  std::vector<Interval> intervals_;
  double level_since_s_ = 0;
  std::uint32_t level_ = 0;
};

}  // namespace troupe::cluster
