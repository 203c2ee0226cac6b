#include "cluster/bench/measurements.h"

#include <algorithm>

namespace troupe::cluster {
namespace {

constexpr std::size_t kSampledAnswers = 1500;
constexpr std::size_t kCdfPoints = 200;

LatencySummary summary_of(const LatencyHistogram& histogram) {
  const auto ms = [&](double share) { return 1e3 * histogram.percentile_s(share); };
  LatencySummary summary{.count = histogram.count(),
                         .mean = 1e3 * histogram.mean_s(),
                         .p50 = ms(0.50),
                         .p90 = ms(0.90),
                         .p95 = ms(0.95),
                         .p99 = ms(0.99),
                         .max = 1e3 * histogram.max_s(),
                         .cdf = histogram.cdf(kCdfPoints)};
  for (auto& [value, share] : summary.cdf) value *= 1e3;
  return summary;
}

}  // namespace

bool ServiceLevel::met_by(const RequestRecord& answered) const {
  const auto tpot_s = answered.tpot_s();
  return (!ttft_ms || 1e3 * answered.ttft_s() <= *ttft_ms) && (!tpot_ms || !tpot_s || 1e3 * *tpot_s <= *tpot_ms);
}

Measurements::Measurements(ServiceLevel service_level, std::uint64_t seed)
    : service_level_(service_level), sampling_(seed, RandomStream::Purpose::kSample) {}

void Measurements::sent(double at_s) {
  ++sent_;
  ++in_flight_;
  peak_in_flight_ = std::max(peak_in_flight_, in_flight_);
  series_.set_in_flight(at_s, in_flight_);
}

void Measurements::ended(const RequestRecord& record) {
  --in_flight_;
  series_.set_in_flight(record.end_s, in_flight_);
  send_lag_.add(record.late_s);
  if (record.result == RequestResult::kAnswered) return count_answer(record);
  if (record.result == RequestResult::kUnfinished) {
    ++unfinished_;
  } else {
    count_error(record);
  }
}

void Measurements::count_answer(const RequestRecord& record) {
  first_sent_s_ = answered_ == 0 ? record.sent_s : std::min(first_sent_s_, record.sent_s);
  last_end_s_ = std::max(last_end_s_, record.end_s);
  ++answered_;
  prompt_tokens_ += record.prompt_tokens;
  output_tokens_ += record.output_tokens;
  cached_tokens_ += record.cached_tokens;
  if (record.output_tokens < record.max_tokens) ++short_answers_;
  if (service_level_.met_by(record)) {
    ++good_;
    good_tokens_ += record.output_tokens;
  }
  ttft_.add(record.ttft_s());
  e2e_.add(record.end_to_end_s());
  if (const auto tpot_s = record.tpot_s()) tpot_.add(*tpot_s);
  const double tokens_a_piece = double(record.output_tokens) / static_cast<double>(record.pieces_s.size());
  for (std::size_t i = 0; i < record.pieces_s.size(); ++i) {
    if (i > 0) itl_.add(record.pieces_s[i] - record.pieces_s[i - 1]);
    series_.add_tokens(record.pieces_s[i], tokens_a_piece);
  }
  series_.add_answer(record.end_s);
  const std::pair<double, double> point(record.sent_s, 1e3 * record.ttft_s());
  if (ttft_sample_.size() < kSampledAnswers) {
    ttft_sample_.push_back(point);
  } else if (const auto place = static_cast<std::uint64_t>(sampling_.uniform() * static_cast<double>(answered_));
             place < kSampledAnswers) {
    ttft_sample_[place] = point;
  }
}

void Measurements::count_error(const RequestRecord& record) {
  ++failed_;
  if (record.retry_after) ++retry_after_;
  ErrorTally& tally = errors_[error_kind(record)];
  if (tally.count++ == 0) tally.example = record.error;
}

BenchReport Measurements::report() const {
  BenchReport report;
  report.sent = sent_;
  report.answered = answered_;
  report.failed = failed_;
  report.unfinished = unfinished_;
  report.shed = shed_;
  report.clipped = clipped_;
  report.short_answers = short_answers_;
  report.retry_after = retry_after_;
  report.peak_in_flight = peak_in_flight_;
  for (const auto& [kind, tally] : errors_) report.errors.push_back({kind, tally.count, tally.example});
  std::stable_sort(report.errors.begin(), report.errors.end(),
                   [](const ErrorCount& a, const ErrorCount& b) { return a.count > b.count; });
  report.wall_s = last_end_s_ - first_sent_s_;
  report.prompt_tokens = prompt_tokens_;
  report.output_tokens = output_tokens_;
  report.cached_tokens = cached_tokens_;
  report.reusable_tokens = reusable_tokens_;
  const auto rate = [&](std::uint64_t count) { return report.wall_s > 0 ? double(count) / report.wall_s : 0; };
  report.output_tokens_per_s = rate(output_tokens_);
  report.prompt_tokens_per_s = rate(prompt_tokens_);
  report.requests_per_s = rate(answered_);
  report.ttft_ms = summary_of(ttft_);
  report.tpot_ms = summary_of(tpot_);
  report.itl_ms = summary_of(itl_);
  report.e2e_ms = summary_of(e2e_);
  report.send_lag_ms = summary_of(send_lag_);
  report.slo_ttft_ms = service_level_.ttft_ms;
  report.slo_tpot_ms = service_level_.tpot_ms;
  report.goodput_requests_per_s = rate(good_);
  report.goodput_tokens_per_s = rate(good_tokens_);
  const std::uint64_t meant = answered_ + failed_ + shed_;
  report.goodput_share = meant == 0 ? 0 : double(good_) / static_cast<double>(meant);
  report.interval_s = series_.interval_s();
  for (const TimeSeries::Interval& interval : series_.intervals()) {
    report.output_tokens_over_time.push_back(interval.output_tokens / series_.interval_s());
    report.answers_over_time.push_back(interval.answered / series_.interval_s());
    report.in_flight_over_time.push_back(interval.in_flight);
  }
  report.ttft_over_time = ttft_sample_;
  std::sort(report.ttft_over_time.begin(), report.ttft_over_time.end());
  return report;
}

}  // namespace troupe::cluster
