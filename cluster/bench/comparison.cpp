#include "cluster/bench/comparison.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>

#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

using Better = ComparedFigure::Better;

constexpr double kNoise = 0.02;  // of a ratio
constexpr std::size_t kNameBytes = 28;

}  // namespace

std::optional<double> ComparedFigure::ratio() const {
  if (!(first > 0) || !std::isfinite(second / first)) return std::nullopt;
  return second / first;
}

std::optional<bool> ComparedFigure::improved() const {
  const auto change = ratio();
  if (!change || better == Better::kNeither || std::abs(*change - 1) <= kNoise) return std::nullopt;
  return (*change > 1) == (better == Better::kHigher);
}

std::vector<ComparedFigure> compare(const BenchReport& first, const BenchReport& second) {
  std::vector<ComparedFigure> figures;
  const auto add = [&](std::string name, std::string unit, double a, double b, Better better) {
    figures.push_back({std::move(name), std::move(unit), a, b, better});
  };
  add("output", "tokens/s", first.output_tokens_per_s, second.output_tokens_per_s, Better::kHigher);
  add("prompt", "tokens/s", first.prompt_tokens_per_s, second.prompt_tokens_per_s, Better::kHigher);
  add("requests", "requests/s", first.requests_per_s, second.requests_per_s, Better::kHigher);
  if (first.has_slo() && second.has_slo()) {
    add("goodput", "requests/s", first.goodput_requests_per_s, second.goodput_requests_per_s, Better::kHigher);
    add("goodput", "tokens/s", first.goodput_tokens_per_s, second.goodput_tokens_per_s, Better::kHigher);
  }
  const auto latency = [&](const std::string& name, const LatencySummary& a, const LatencySummary& b) {
    if (a.count == 0 || b.count == 0) return;
    add(name + " mean", "ms", a.mean, b.mean, Better::kLower);
    add(name + " p50", "ms", a.p50, b.p50, Better::kLower);
    add(name + " p90", "ms", a.p90, b.p90, Better::kLower);
    add(name + " p95", "ms", a.p95, b.p95, Better::kLower);
    add(name + " p99", "ms", a.p99, b.p99, Better::kLower);
    add(name + " max", "ms", a.max, b.max, Better::kLower);
  };
  latency("first token", first.ttft_ms, second.ttft_ms);
  latency("per output token", first.tpot_ms, second.tpot_ms);
  latency("between pieces", first.itl_ms, second.itl_ms);
  latency("whole answer", first.e2e_ms, second.e2e_ms);
  if (first.queue_wait_ms && second.queue_wait_ms) {
    add("queue, server's mean", "ms", *first.queue_wait_ms, *second.queue_wait_ms, Better::kLower);
  }
  add("cached", "tokens", double(first.cached_tokens), double(second.cached_tokens), Better::kHigher);
  add("answered", "requests", double(first.answered), double(second.answered), Better::kNeither);
  add("failed", "requests", double(first.failed), double(second.failed), Better::kLower);
  add("shed", "requests", double(first.shed), double(second.shed), Better::kLower);
  return figures;
}

std::string comparison_table(const BenchReport& first, const BenchReport& second) {
  std::string out;
  for (const auto& [letter, report] : {std::pair("A", &first), std::pair("B", &second)}) {
    fmt::format_to(std::back_inserter(out), "{}  {}: {}, {}\n   {}; {}\n", letter, one_line(run_name(*report)),
                   one_line(report->model), one_line(report->started_at), one_line(report->load),
                   one_line(report->workload));
  }
  fmt::format_to(std::back_inserter(out), "\n  {:<24}{:<12}{:>12}{:>12}{:>9}\n", "", "", "A", "B", "B / A");
  for (const ComparedFigure& figure : compare(first, second)) {
    const auto ratio = figure.ratio();
    const auto improved = figure.improved();
    fmt::format_to(std::back_inserter(out), "  {:<24}{:<12}{:>12.1f}{:>12.1f}{:>9}{}\n", figure.name, figure.unit,
                   figure.first, figure.second, ratio ? fmt::format("{:.2f}x", *ratio) : "-",
                   !improved   ? ""
                   : *improved ? "  better"
                               : "  worse");
  }
  return out;
}

std::string run_name(const BenchReport& report) {
  const std::string& name = report.label.empty() ? report.target : report.label;
  return one_line(name, kNameBytes);
}

}  // namespace troupe::cluster
