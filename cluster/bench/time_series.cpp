#include "cluster/bench/time_series.h"

#include <algorithm>

namespace troupe::cluster {

void TimeSeries::add_tokens(double at_s, double tokens) { at(at_s).output_tokens += tokens; }

void TimeSeries::add_answer(double at_s) { ++at(at_s).answered; }

void TimeSeries::set_in_flight(double at_s, std::uint32_t in_flight) {
  at(at_s);  // makes room, and with it settles how long an interval is
  const auto first = static_cast<std::size_t>(level_since_s_ / interval_s_);
  const auto last = static_cast<std::size_t>(at_s / interval_s_);
  for (std::size_t i = first; i <= last; ++i) intervals_[i].in_flight = std::max(intervals_[i].in_flight, level_);
  intervals_[last].in_flight = std::max(intervals_[last].in_flight, in_flight);
  level_ = in_flight;
  level_since_s_ = at_s;
}

TimeSeries::Interval& TimeSeries::at(double time_s) {
  while (time_s >= interval_s_ * static_cast<double>(kMaxIntervals)) halve();
  const auto index = static_cast<std::size_t>(time_s / interval_s_);
  if (index >= intervals_.size()) intervals_.resize(index + 1);
  return intervals_[index];
}

void TimeSeries::halve() {
  interval_s_ *= 2;
  for (std::size_t i = 0; i < intervals_.size(); ++i) {
    const Interval from = intervals_[i];
    if (i % 2 == 0) {
      intervals_[i / 2] = from;
      continue;
    }
    Interval& into = intervals_[i / 2];
    into.output_tokens += from.output_tokens;
    into.answered += from.answered;
    into.in_flight = std::max(into.in_flight, from.in_flight);
  }
  intervals_.resize((intervals_.size() + 1) / 2);
}

}  // namespace troupe::cluster
