#include "cluster/bench/html_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <span>

#include "cluster/bench/comparison.h"
#include "cluster/bench/svg_plot.h"

namespace troupe::cluster {
namespace {

using Points = std::vector<std::pair<double, double>>;

constexpr std::string_view kHead = R"(<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>troupe bench</title>
<style>
:root { color-scheme: light dark; --text: #1c2330; --soft: #5d6675; --page: #ffffff; --panel: #f4f6f9; --line: #d5dae2;
  --series0: #1f6fd6; --series1: #d2611c; --good: #19783c; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --text: #e4e8ef; --soft: #9aa4b5; --page: #14181f; --panel: #1d232d;
  --line: #343d4b; --series0: #6aa9ff; --series1: #ff9d5c; --good: #62c98a; --bad: #ff8a80; } }
body { margin: 0 auto; padding: 24px; max-width: 1360px; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 16px; margin: 28px 0 8px; }
p { margin: 2px 0; color: var(--soft); overflow-wrap: anywhere; }
.figures { display: flex; flex-wrap: wrap; gap: 12px; margin-top: 18px; }
.figure { background: var(--panel); border-radius: 8px; padding: 10px 16px; min-width: 150px; }
.figure b { display: block; font-size: 22px; font-variant-numeric: tabular-nums; } .figure span { color: var(--soft); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr)); gap: 16px; }
.plot { background: var(--panel); border-radius: 8px; padding: 10px 12px; } .plot h2 { margin: 0 0 4px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 14px 4px 0; text-align: right; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; } th:first-child, td:first-child, td.text { text-align: left; }
.better { color: var(--good); } .worse { color: var(--bad); }
svg { width: 100%; height: auto; display: block; } svg .label { fill: var(--soft); font: 12px system-ui, sans-serif; }
svg .axis { stroke: var(--soft); } svg .grid { stroke: var(--line); stroke-width: 0.7; }
svg path { fill: none; stroke-width: 1.8; } svg .series0 { stroke: var(--series0); } svg .series1 { stroke: var(--series1); }
svg .dot0 { fill: var(--series0); } svg .dot1 { fill: var(--series1); } svg circle { fill-opacity: 0.55; }
</style>
</head>
<body>
)";

struct Latency {
  const char* name;
  const LatencySummary BenchReport::*summary;
};

constexpr std::array<Latency, 4> kLatencies = {{{"Time to first token", &BenchReport::ttft_ms},
                                                {"Time per output token", &BenchReport::tpot_ms},
                                                {"Between streamed pieces", &BenchReport::itl_ms},
                                                {"Whole answer", &BenchReport::e2e_ms}}};

void add_plot(std::string& out, const Plot& plot) {
  fmt::format_to(std::back_inserter(out), "<div class=\"plot\"><h2>{}</h2>\n{}</div>\n", escape_html(plot.title),
                 render_svg(plot));
}

Points over_time(const BenchReport& report, const std::vector<double>& values) {
  Points points;
  for (std::size_t i = 0; i < values.size(); ++i) {
    points.emplace_back(static_cast<double>(i) * report.interval_s, values[i]);
  }
  if (!values.empty()) points.emplace_back(static_cast<double>(values.size()) * report.interval_s, values.back());
  return points;
}

void add_plots(std::string& out, std::span<const BenchReport* const> runs) {
  out += "<h2>Over time</h2>\n<div class=\"plots\">\n";
  const auto plot = [&](const char* title, const char* x_label, const char* y_label, bool log_x,
                        PlotSeries::Style style, const auto& points_of) {
    Plot made{title, x_label, y_label, log_x, {}};
    for (const BenchReport* run : runs) made.series.push_back({run_name(*run), points_of(*run), style});
    add_plot(out, made);
  };
  using Style = PlotSeries::Style;
  plot("Output", "seconds", "tokens/s", false, Style::kSteps,
       [](const BenchReport& run) { return over_time(run, run.output_tokens_over_time); });
  plot("Answers", "seconds", "requests/s", false, Style::kSteps,
       [](const BenchReport& run) { return over_time(run, run.answers_over_time); });
  plot("Requests under way", "seconds", "requests", false, Style::kSteps,
       [](const BenchReport& run) { return over_time(run, run.in_flight_over_time); });
  plot("Time to first token, by when the request was sent", "seconds", "ms", false, Style::kDots,
       [](const BenchReport& run) { return run.ttft_over_time; });
  out += "</div>\n<h2>How many were how fast</h2>\n<div class=\"plots\">\n";
  for (const Latency& latency : kLatencies) {
    plot(latency.name, "ms", "share of them", true, Style::kSteps,
         [&](const BenchReport& run) { return (run.*latency.summary).cdf; });
  }
  out += "</div>\n";
}

void add_figure(std::string& out, const std::string& value, std::string_view what) {
  fmt::format_to(std::back_inserter(out), "<div class=\"figure\"><b>{}</b><span>{}</span></div>\n", value, what);
}

void add_figures(std::string& out, const BenchReport& report) {
  out += "<div class=\"figures\">\n";
  add_figure(out, fmt::format("{:.1f}", report.output_tokens_per_s), "output tokens/s");
  add_figure(out, fmt::format("{:.2f}", report.requests_per_s), "requests/s");
  if (report.ttft_ms.count > 0) add_figure(out, fmt::format("{:.1f} ms", report.ttft_ms.p50), "first token, p50");
  if (report.itl_ms.count > 0) add_figure(out, fmt::format("{:.1f} ms", report.itl_ms.p99), "between pieces, p99");
  if (report.has_slo()) {
    add_figure(out, fmt::format("{:.2f}", report.goodput_requests_per_s), "good requests/s");
    add_figure(out, fmt::format("{:.1f}", report.goodput_tokens_per_s), "good tokens/s");
  }
  if (report.cached_tokens > 0 && report.prompt_tokens > 0) {
    add_figure(out, fmt::format("{:.1f} %", 100.0 * double(report.cached_tokens) / double(report.prompt_tokens)),
               "of prompt tokens cached");
  }
  add_figure(out, fmt::format("{} / {}", report.answered, report.sent), "requests answered");
  if (report.failed > 0) add_figure(out, fmt::format("{}", report.failed), "failed");
  if (report.shed > 0) add_figure(out, fmt::format("{}", report.shed), "shed by the client");
  out += "</div>\n";
}

void add_latencies(std::string& out, const BenchReport& report) {
  out +=
      "<h2>Latency, ms</h2>\n<div "
      "class=\"wide\"><table>\n<tr><th></th><th>mean</th><th>p50</th><th>p90</th><th>p95</th>"
      "<th>p99</th><th>max</th><th>count</th></tr>\n";
  for (const Latency& latency : kLatencies) {
    const LatencySummary& summary = report.*latency.summary;
    if (summary.count == 0) continue;
    fmt::format_to(std::back_inserter(out), "<tr><td>{}</td>", latency.name);
    for (const double value : {summary.mean, summary.p50, summary.p90, summary.p95, summary.p99, summary.max}) {
      fmt::format_to(std::back_inserter(out), "<td>{:.1f}</td>", value);
    }
    fmt::format_to(std::back_inserter(out), "<td>{}</td></tr>\n", summary.count);
  }
  out += "</table></div>\n";
}

void add_errors(std::string& out, const BenchReport& report) {
  if (report.errors.empty()) return;
  out +=
      "<h2>Failures</h2>\n<div class=\"wide\"><table>\n<tr><th>kind</th><th>count</th><th>the first of "
      "them</th></tr>\n";
  for (const ErrorCount& error : report.errors) {
    fmt::format_to(std::back_inserter(out), "<tr><td>{}</td><td>{}</td><td class=\"text\">{}</td></tr>\n",
                   escape_html(error.kind), error.count, escape_html(error.example));
  }
  out += "</table></div>\n";
}

void add_comparison(std::string& out, const BenchReport& first, const BenchReport& second) {
  fmt::format_to(
      std::back_inserter(out),
      "<h2>Figures</h2>\n<div class=\"wide\"><table>\n<tr><th></th><th></th><th>{}</th><th>{}</th><th>ratio</th>"
      "</tr>\n",
      escape_html(run_name(first)), escape_html(run_name(second)));
  for (const ComparedFigure& figure : compare(first, second)) {
    const auto ratio = figure.ratio();
    const auto improved = figure.improved();
    fmt::format_to(
        std::back_inserter(out),
        "<tr><td>{}</td><td class=\"text\">{}</td><td>{:.1f}</td><td>{:.1f}</td><td class=\"{}\">{}</td></tr>\n",
        escape_html(figure.name), escape_html(figure.unit), figure.first, figure.second,
        !improved   ? ""
        : *improved ? "better"
                    : "worse",
        ratio ? fmt::format("{:.2f}x", *ratio) : "-");
  }
  out += "</table></div>\n";
}

void add_subject(std::string& out, const BenchReport& report) {
  fmt::format_to(std::back_inserter(out), "<p>{} · {} at {} · {}</p>\n<p>{}; {}</p>\n", escape_html(report.model),
                 escape_html(report.api), escape_html(report.target), escape_html(report.started_at),
                 escape_html(report.load), escape_html(report.workload));
}

}  // namespace

std::string html_report(const BenchReport& report) {
  std::string out(kHead);
  fmt::format_to(std::back_inserter(out), "<h1>{}</h1>\n", escape_html(run_name(report)));
  add_subject(out, report);
  add_figures(out, report);
  add_latencies(out, report);
  add_errors(out, report);
  const std::array runs{&report};
  add_plots(out, runs);
  return out + "</body>\n</html>\n";
}

std::string html_comparison(const BenchReport& first, const BenchReport& second) {
  std::string out(kHead);
  fmt::format_to(std::back_inserter(out), "<h1>{} and {}</h1>\n", escape_html(run_name(first)),
                 escape_html(run_name(second)));
  add_subject(out, first);
  add_subject(out, second);
  add_comparison(out, first, second);
  const std::array runs{&first, &second};
  add_plots(out, runs);
  return out + "</body>\n</html>\n";
}

}  // namespace troupe::cluster
