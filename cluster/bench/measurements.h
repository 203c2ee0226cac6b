#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <utility>
#include <vector>

#include "cluster/bench/bench_report.h"
#include "cluster/bench/latency_histogram.h"
#include "cluster/bench/random_stream.h"
#include "cluster/bench/request_record.h"
#include "cluster/bench/time_series.h"

namespace troupe::cluster {

// What an answer must keep to be good; what is absent is always kept. An answer of one token has no TPOT to miss.
struct ServiceLevel {
  std::optional<double> ttft_ms;
  std::optional<double> tpot_ms;

  bool met_by(const RequestRecord& answered) const;
};

// Adds up a run, in memory that does not grow with it. A plain value; times are seconds after the start.
class Measurements {
 public:
  Measurements(ServiceLevel service_level, std::uint64_t seed);

  void count_shed() { ++shed_; }
  void count_clipped() { ++clipped_; }
  void count_reusable(std::uint64_t tokens) { reusable_tokens_ = reusable_tokens_.value_or(0) + tokens; }

  // REQUIRES: in the order of time.
  void sent(double at_s);
  void ended(const RequestRecord& record);

  std::uint64_t requests_sent() const { return sent_; }
  std::uint64_t requests_answered() const { return answered_; }
  std::uint64_t requests_failed() const { return failed_; }
  std::uint64_t output_tokens() const { return output_tokens_; }
  std::uint32_t in_flight() const { return in_flight_; }

  // The numbers of a report; what was asked of whom is left to the caller.
  BenchReport report() const;

 private:
  struct ErrorTally {
    std::uint64_t count = 0;
    std::string example;
  };

  void count_answer(const RequestRecord& record);
  void count_error(const RequestRecord& record);

  const ServiceLevel service_level_;
  std::uint64_t sent_ = 0;
  std::uint64_t answered_ = 0;
  std::uint64_t failed_ = 0;
  std::uint64_t unfinished_ = 0;
  std::uint64_t shed_ = 0;
  std::uint64_t clipped_ = 0;
  std::uint64_t short_answers_ = 0;
  std::uint64_t retry_after_ = 0;
  std::uint32_t in_flight_ = 0;
  std::uint32_t peak_in_flight_ = 0;
  std::uint64_t prompt_tokens_ = 0;
  std::uint64_t output_tokens_ = 0;
  std::uint64_t cached_tokens_ = 0;
  std::optional<std::uint64_t> reusable_tokens_;
  std::uint64_t good_ = 0;
  std::uint64_t good_tokens_ = 0;
  double first_sent_s_ = 0;
  double last_end_s_ = 0;
  LatencyHistogram ttft_, tpot_, itl_, e2e_, send_lag_;
  TimeSeries series_;
  std::map<std::string, ErrorTally> errors_;
  // A uniform sample of the answers (Vitter 1985, algorithm R).
  std::vector<std::pair<double, double>> ttft_sample_;
  RandomStream sampling_;
};

}  // namespace troupe::cluster
