#include "cluster/bench/report_table.h"

#include <fmt/format.h>

#include <iterator>

#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

// What is sent later than this by the client itself makes its latencies doubtful.
constexpr double kLateMs = 10;

void add_line(std::string& out, std::string_view name, std::string_view text) {
  fmt::format_to(std::back_inserter(out), "  {:<18}{}\n", name, text);
}

void add_latency(std::string& out, std::string_view name, const LatencySummary& summary) {
  if (summary.count == 0) return;
  fmt::format_to(std::back_inserter(out), "  {:<18}{:>10.1f}{:>10.1f}{:>10.1f}{:>10.1f}{:>10.1f}{:>10.1f}{:>10}\n",
                 name, summary.mean, summary.p50, summary.p90, summary.p95, summary.p99, summary.max, summary.count);
}

std::string share_text(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? "" : fmt::format(" ({:.1f} %)", 100.0 * double(part) / double(whole));
}

std::string requests_text(const BenchReport& report) {
  std::string text = fmt::format("{} sent, {} answered in {:.2f} s", report.sent, report.answered, report.wall_s);
  const auto more = [&](std::uint64_t count, std::string_view what) {
    if (count > 0) text += fmt::format(", {} {}", count, what);
  };
  more(report.failed, "failed");
  more(report.unfinished, "unfinished");
  more(report.shed, "shed by this client");
  more(report.short_answers, "shorter than asked for");
  more(report.clipped, "clipped to the model's length");
  return text;
}

std::string goodput_text(const BenchReport& report) {
  std::string text = fmt::format("{:.3f} requests/s, {:.1f} tokens/s, {:.1f} % within", report.goodput_requests_per_s,
                                 report.goodput_tokens_per_s, 100 * report.goodput_share);
  if (report.slo_ttft_ms) text += fmt::format(" first token {:g} ms", *report.slo_ttft_ms);
  if (report.slo_tpot_ms) text += fmt::format("{} token {:g} ms", report.slo_ttft_ms ? "," : "", *report.slo_tpot_ms);
  return text;
}

}  // namespace

std::string report_table(const BenchReport& report) {
  std::string out =
      fmt::format("{}, {} at {}\n{}; {}\n\n", report.model, report.api, report.target, report.load, report.workload);
  add_line(out, "requests", requests_text(report));
  add_line(out, "throughput",
           fmt::format("{:.1f} output tokens/s, {:.1f} prompt tokens/s, {:.3f} requests/s", report.output_tokens_per_s,
                       report.prompt_tokens_per_s, report.requests_per_s));
  add_line(out, "tokens",
           fmt::format("{} in, {} out; at most {} requests at a time", report.prompt_tokens, report.output_tokens,
                       report.peak_in_flight));
  std::string cached =
      fmt::format("{} prompt tokens{}", report.cached_tokens, share_text(report.cached_tokens, report.prompt_tokens));
  if (report.reusable_tokens) {
    cached += fmt::format("; the trace repeats {}{}", *report.reusable_tokens,
                          share_text(*report.reusable_tokens, report.prompt_tokens));
  }
  if (report.cached_tokens > 0 || report.reusable_tokens) add_line(out, "cached", cached);
  if (report.has_slo()) add_line(out, "goodput", goodput_text(report));
  if (report.queue_wait_ms)
    add_line(out, "queue", fmt::format("{:.1f} ms on average, the server says", *report.queue_wait_ms));

  if (report.answered > 0) {
    fmt::format_to(std::back_inserter(out), "\n  {:<18}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}{:>10}\n", "ms", "mean",
                   "p50", "p90", "p95", "p99", "max", "count");
    add_latency(out, "first token", report.ttft_ms);
    add_latency(out, "per output token", report.tpot_ms);
    add_latency(out, "between pieces", report.itl_ms);
    add_latency(out, "whole answer", report.e2e_ms);
  }
  if (!report.errors.empty()) out += "\n";
  for (const ErrorCount& error : report.errors) {
    add_line(out, error.kind, fmt::format("{}: {}", error.count, one_line(error.example)));
  }
  if (report.retry_after > 0) add_line(out, "retry-after", fmt::format("given with {} refusals", report.retry_after));
  if (report.send_lag_ms.p99 > kLateMs) {
    out +=
        fmt::format("\n  This client sent up to {:.1f} ms late (p99): it was too slow for the load, or had no core.\n",
                    report.send_lag_ms.p99);
  }
  return out;
}

}  // namespace troupe::cluster
