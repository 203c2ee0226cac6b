#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"

namespace troupe::cluster {

// Milliseconds over the requests, or over the gaps, that count.
struct LatencySummary {
  std::uint64_t count = 0;  // 0: the others say nothing
  double mean = 0;
  double p50 = 0;
  double p90 = 0;
  double p95 = 0;
  double p99 = 0;
  double max = 0;
  std::vector<std::pair<double, double>> cdf;  // (milliseconds, share not above)
};

struct ErrorCount {
  std::string kind;  // as error_kind() has it
  std::uint64_t count = 0;
  std::string example;  // what the first of them said
};

// What a run of the load generator found: its JSON file, and what tables, plots and comparisons are made of. A plain
// value. Rates are over wall_s: from the first request sent to the last answer whole, of the answered requests.
struct BenchReport {
  // What was asked of whom, in words.
  std::string label;  // a name for this run
  std::string target;
  std::string model;
  std::string api;
  std::string load;      // "16 clients in turns"
  std::string workload;  // "prompts of 128 tokens, answers of 64"
  std::string started_at;

  std::uint64_t sent = 0;
  std::uint64_t answered = 0;
  std::uint64_t failed = 0;
  std::uint64_t unfinished = 0;     // cut off by the end of the run
  std::uint64_t shed = 0;           // due, but not sent: max_in_flight were under way
  std::uint64_t clipped = 0;        // to max_model_len
  std::uint64_t short_answers = 0;  // with fewer tokens than were asked for
  std::uint64_t retry_after = 0;    // refusals that said when to come back
  std::uint64_t peak_in_flight = 0;
  std::vector<ErrorCount> errors;  // most frequent first

  double wall_s = 0;
  std::uint64_t prompt_tokens = 0;
  std::uint64_t output_tokens = 0;
  std::uint64_t cached_tokens = 0;               // prompt tokens that the server found in its cache
  std::optional<std::uint64_t> reusable_tokens;  // that a cache which forgets nothing would have found (traces)
  double output_tokens_per_s = 0;
  double prompt_tokens_per_s = 0;
  double requests_per_s = 0;

  LatencySummary ttft_ms;               // time to first token
  LatencySummary tpot_ms;               // per output token after the first, of each answer
  LatencySummary itl_ms;                // between one streamed piece and the next
  LatencySummary e2e_ms;                // until the answer was whole
  LatencySummary send_lag_ms;           // that this client sent later than it meant to
  std::optional<double> queue_wait_ms;  // mean, by the server's own metrics

  // The service level objective and what met it.
  std::optional<double> slo_ttft_ms;
  std::optional<double> slo_tpot_ms;
  double goodput_requests_per_s = 0;
  double goodput_tokens_per_s = 0;
  double goodput_share = 0;  // of the answered, failed and shed requests

  // Over time; vectors of one length, an element for each interval.
  double interval_s = 0;
  std::vector<double> output_tokens_over_time;            // a second
  std::vector<double> answers_over_time;                  // a second
  std::vector<double> in_flight_over_time;                // at most
  std::vector<std::pair<double, double>> ttft_over_time;  // (sent at s, ms); a sample of the requests

  bool has_slo() const { return slo_ttft_ms || slo_tpot_ms; }
};

boost::json::object to_json(const BenchReport& report);

// Errors: not what to_json() writes; names the key.
Result<BenchReport> bench_report_from_json(std::string_view text);

// The same for a file; errors name it, and the limit bench_report_bytes.
Result<BenchReport> read_bench_report(const std::string& file, const Limits& limits);

}  // namespace troupe::cluster
