#include "cluster/bench/bench_report.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <cmath>
#include <fstream>

#include "cluster/http/json_member.h"
#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

namespace json = boost::json;

constexpr std::string_view kFormat = "troupe-bench-1";

using Points = std::vector<std::pair<double, double>>;

// Every member with its key, for the writer and the reader alike.
template <class Report, class Visitor>
void visit(Report& report, Visitor&& field) {
  field("label", report.label);
  field("target", report.target);
  field("model", report.model);
  field("api", report.api);
  field("load", report.load);
  field("workload", report.workload);
  field("started_at", report.started_at);
  field("sent", report.sent);
  field("answered", report.answered);
  field("failed", report.failed);
  field("unfinished", report.unfinished);
  field("shed", report.shed);
  field("clipped", report.clipped);
  field("short_answers", report.short_answers);
  field("retry_after", report.retry_after);
  field("peak_in_flight", report.peak_in_flight);
  field("errors", report.errors);
  field("wall_s", report.wall_s);
  field("prompt_tokens", report.prompt_tokens);
  field("output_tokens", report.output_tokens);
  field("cached_tokens", report.cached_tokens);
  field("reusable_tokens", report.reusable_tokens);
  field("output_tokens_per_s", report.output_tokens_per_s);
  field("prompt_tokens_per_s", report.prompt_tokens_per_s);
  field("requests_per_s", report.requests_per_s);
  field("ttft_ms", report.ttft_ms);
  field("tpot_ms", report.tpot_ms);
  field("itl_ms", report.itl_ms);
  field("e2e_ms", report.e2e_ms);
  field("send_lag_ms", report.send_lag_ms);
  field("queue_wait_ms", report.queue_wait_ms);
  field("slo_ttft_ms", report.slo_ttft_ms);
  field("slo_tpot_ms", report.slo_tpot_ms);
  field("goodput_requests_per_s", report.goodput_requests_per_s);
  field("goodput_tokens_per_s", report.goodput_tokens_per_s);
  field("goodput_share", report.goodput_share);
  field("interval_s", report.interval_s);
  field("output_tokens_over_time", report.output_tokens_over_time);
  field("answers_over_time", report.answers_over_time);
  field("in_flight_over_time", report.in_flight_over_time);
  field("ttft_over_time", report.ttft_over_time);
}

template <class Summary, class Visitor>
void visit_latency(Summary& summary, Visitor&& field) {
  field("count", summary.count);
  field("mean", summary.mean);
  field("p50", summary.p50);
  field("p90", summary.p90);
  field("p95", summary.p95);
  field("p99", summary.p99);
  field("max", summary.max);
  field("cdf", summary.cdf);
}

template <class Error, class Visitor>
void visit_error(Error& error, Visitor&& field) {
  field("kind", error.kind);
  field("count", error.count);
  field("example", error.example);
}

// Microseconds and parts per million are enough for people and plots, and keep files small.
double rounded(double value) { return std::round(value * 1e4) / 1e4; }

json::value to_value(const std::string& text) { return json::string(text); }
json::value to_value(std::uint64_t number) { return number; }
json::value to_value(double number) { return rounded(number); }

json::value to_value(const std::vector<double>& numbers) {
  json::array list;
  for (const double number : numbers) list.emplace_back(rounded(number));
  return list;
}

json::value to_value(const Points& points) {
  json::array list;
  for (const auto& [x, y] : points) list.push_back(json::array{rounded(x), rounded(y)});
  return list;
}

json::value to_value(const LatencySummary& summary) {
  if (summary.count == 0) return nullptr;
  json::object object;
  visit_latency(summary, [&](const char* key, const auto& value) { object[key] = to_value(value); });
  return object;
}

json::value to_value(const std::vector<ErrorCount>& errors) {
  json::array list;
  for (const ErrorCount& error : errors) {
    json::object object;
    visit_error(error, [&](const char* key, const auto& value) { object[key] = to_value(value); });
    list.push_back(std::move(object));
  }
  return list;
}

template <class T>
json::value to_value(const std::optional<T>& value) {
  return value ? to_value(*value) : json::value(nullptr);
}

// Reading: false = the value is of another kind.
bool from_value(const json::value& value, std::string& text) {
  if (!value.is_string()) return false;
  text = json_text(&value);
  return true;
}

bool from_value(const json::value& value, double& number) {
  json::error_code error;
  number = value.to_number<double>(error);
  return !error && std::isfinite(number);
}

bool from_value(const json::value& value, std::uint64_t& number) {
  json::error_code error;
  number = value.to_number<std::uint64_t>(error);
  return !error;
}

bool from_value(const json::value& value, std::vector<double>& numbers) {
  const json::array* list = value.if_array();
  if (list == nullptr) return false;
  for (const json::value& item : *list) {
    if (!from_value(item, numbers.emplace_back())) return false;
  }
  return true;
}

bool from_value(const json::value& value, Points& points) {
  const json::array* list = value.if_array();
  if (list == nullptr) return false;
  for (const json::value& item : *list) {
    std::vector<double> both;
    if (!from_value(item, both) || both.size() != 2) return false;
    points.emplace_back(both[0], both[1]);
  }
  return true;
}

bool from_value(const json::value& value, LatencySummary& summary) {
  if (value.is_null()) return true;
  bool right = true;
  visit_latency(summary, [&](const char* key, auto& member) {
    const json::value* found = json_member(&value, key);
    right = right && found != nullptr && from_value(*found, member);
  });
  return right;
}

bool from_value(const json::value& value, std::vector<ErrorCount>& errors) {
  const json::array* list = value.if_array();
  if (list == nullptr) return false;
  bool right = true;
  for (const json::value& item : *list) {
    visit_error(errors.emplace_back(), [&](const char* key, auto& member) {
      const json::value* found = json_member(&item, key);
      right = right && found != nullptr && from_value(*found, member);
    });
  }
  return right;
}

template <class T>
bool from_value(const json::value& value, std::optional<T>& member) {
  return value.is_null() || from_value(value, member.emplace());
}

}  // namespace

json::object to_json(const BenchReport& report) {
  json::object object{{"format", kFormat}};
  visit(report, [&](const char* key, const auto& value) { object[key] = to_value(value); });
  return object;
}

Result<BenchReport> bench_report_from_json(std::string_view text) {
  json::error_code error;
  const json::value value = json::parse(text, error);
  if (error) return invalid_argument("not JSON: " + error.message());
  if (json_text(json_member(&value, "format")) != kFormat) {
    return invalid_argument(fmt::format("not a report of troupe bench: \"format\" is not \"{}\"", kFormat));
  }
  BenchReport report;
  std::string wrong;
  visit(report, [&](const char* key, auto& member) {
    const json::value* found = json_member(&value, key);
    if (wrong.empty() && (found == nullptr || !from_value(*found, member))) wrong = key;
  });
  const std::size_t intervals = report.output_tokens_over_time.size();
  const bool even = report.answers_over_time.size() == intervals && report.in_flight_over_time.size() == intervals;
  if (wrong.empty() && !even) wrong = "in_flight_over_time";
  if (!wrong.empty()) return invalid_argument("\"" + wrong + "\" is missing, or not what troupe bench writes");
  return report;
}

Result<BenchReport> read_bench_report(const std::string& file, const Limits& limits) {
  std::ifstream in(file, std::ios::binary | std::ios::ate);
  if (!in) return not_found("the report " + one_line(file) + " cannot be read");
  const auto bytes = static_cast<std::uint64_t>(in.tellg());
  if (bytes > limits.bench_report_bytes) {
    return resource_exhausted(fmt::format("{} has {} bytes, more than the limit bench_report_bytes of {}",
                                          one_line(file), bytes, limits.bench_report_bytes));
  }
  std::string text(bytes, '\0');
  in.seekg(0);
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (!in) return not_found("the report " + one_line(file) + " cannot be read");
  auto report = bench_report_from_json(text);
  if (!report.ok()) return std::move(report).error().within(one_line(file));
  return report;
}

}  // namespace troupe::cluster
