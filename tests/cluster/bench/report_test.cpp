#include <boost/json.hpp>
#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>
#include <limits>

#include "cluster/bench/bench_report.h"
#include "cluster/bench/comparison.h"
#include "cluster/bench/html_report.h"
#include "cluster/bench/load_progress.h"
#include "cluster/bench/report_table.h"
#include "cluster/bench/svg_plot.h"

namespace troupe::cluster {
namespace {

BenchReport a_report(double factor = 1) {
  BenchReport report{.label = "before",
                     .target = "http://h:1",
                     .model = "m",
                     .api = "completions",
                     .load = "closed loop",
                     .workload = "prompts",
                     .started_at = "2026-01-01T00:00:00Z",
                     .sent = 12,
                     .answered = 10,
                     .failed = 2};
  report.errors = {{"http_429", 2, "come back later"}};
  report.wall_s = 5;
  report.prompt_tokens = 1280;
  report.output_tokens = 640;
  report.reusable_tokens = 256;
  report.output_tokens_per_s = 128 * factor;
  report.requests_per_s = 2 * factor;
  report.ttft_ms = {10, 100 / factor, 90 / factor, 150, 160, 170, 180, {{50, 0}, {90, 0.5}, {180, 1}}};
  report.e2e_ms = {10, 1000, 900, 1500, 1600, 1700, 1800, {{500, 0}, {1800, 1}}};
  report.queue_wait_ms = 3.5;
  report.slo_ttft_ms = 100;
  report.interval_s = 0.25;
  report.output_tokens_over_time = {100, 150};
  report.answers_over_time = {1, 2};
  report.in_flight_over_time = {16, 8};
  report.ttft_over_time = {{0.1, 90}, {0.3, 180}};
  return report;
}

std::size_t count(const std::string& text, const std::string& part) {
  std::size_t found = 0;
  for (std::size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_report_survives_its_json) {
  const std::string text = boost::json::serialize(to_json(a_report()));
  const auto read = bench_report_from_json(text);
  BOOST_REQUIRE_MESSAGE(read.ok(), (read.ok() ? "" : read.error().message));
  BOOST_TEST(boost::json::serialize(to_json(*read)) == text);
  BOOST_TEST(read->answered == 10u);
  BOOST_TEST(read->ttft_ms.p99 == 170);
  BOOST_TEST(read->ttft_ms.cdf.size() == 3u);
  BOOST_TEST(read->tpot_ms.count == 0u);
  BOOST_TEST(*read->reusable_tokens == 256u);
  BOOST_TEST(!read->slo_tpot_ms.has_value());
  BOOST_TEST(read->errors[0].example == "come back later");
}

BOOST_AUTO_TEST_CASE(a_report_that_is_none_is_refused_with_its_key) {
  const auto refusal = [](const std::string& text) {
    const auto read = bench_report_from_json(text);
    BOOST_REQUIRE(!read.ok());
    return read.error().message;
  };
  BOOST_TEST(refusal("{").find("not JSON") == 0u);
  BOOST_TEST(refusal("[]").find("\"format\"") != std::string::npos);
  BOOST_TEST(refusal("{\"format\": \"other\"}").find("\"format\"") != std::string::npos);
  for (const auto& entry : to_json(a_report())) {
    boost::json::object json = to_json(a_report());
    const std::string key = entry.key();
    json[key] = boost::json::array{boost::json::object{}};
    BOOST_TEST(refusal(boost::json::serialize(json)).find("\"" + key + "\"") != std::string::npos, key);
    json.erase(key);
    BOOST_TEST(refusal(boost::json::serialize(json)).find("\"" + key + "\"") != std::string::npos, key);
  }
  boost::json::object uneven = to_json(a_report());
  uneven["answers_over_time"] = {1};
  BOOST_TEST(refusal(boost::json::serialize(uneven)).find("over_time") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(report_files_are_named_and_bounded) {
  Limits limits;
  BOOST_TEST(read_bench_report("/nowhere/a.json", limits).error().message.find("/nowhere/a.json") != std::string::npos);
  const auto file = std::filesystem::temp_directory_path() / ("bench-report-" + std::to_string(getpid()) + ".json");
  std::ofstream(file) << "{\"format\": 3}";
  BOOST_TEST(read_bench_report(file, limits).error().message.find(file.string() + ": not a report") == 0u);
  limits.bench_report_bytes = 5;
  BOOST_TEST(read_bench_report(file, limits).error().message.find("limit bench_report_bytes") != std::string::npos);
  std::filesystem::remove(file);
}

BOOST_AUTO_TEST_CASE(a_table_tells_what_was_measured_and_what_went_wrong) {
  const std::string table = report_table(a_report());
  for (const char* part : {"128.0 output tokens/s", "2.000 requests/s", "12 sent, 10 answered in 5.00 s, 2 failed",
                           "the trace repeats 256 (20.0 %)", "first token", "90.0", "http_429", "2: come back later",
                           "goodput", "within first token 100 ms", "3.5 ms on average"}) {
    BOOST_TEST(table.find(part) != std::string::npos, part);
  }
  // Nothing has the latency that was not measured.
  BOOST_TEST(table.find("per output token") == std::string::npos);
  BOOST_TEST(report_table(BenchReport{}).find("0 answered") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_client_that_is_late_says_so) {
  BenchReport report = a_report();
  report.send_lag_ms = {12, 20, 5, 30, 40, 55, 60, {}};
  BOOST_TEST(report_table(report).find("55.0 ms late (p99)") != std::string::npos);
  BOOST_TEST(report_table(a_report()).find("late (p99)") == std::string::npos);
}

BOOST_AUTO_TEST_CASE(two_runs_are_compared_figure_by_figure) {
  const auto figures = compare(a_report(), a_report(2));
  const auto figure = [&](const std::string& name, const std::string& unit) {
    for (const ComparedFigure& each : figures) {
      if (each.name == name && each.unit == unit) return each;
    }
    BOOST_FAIL("no figure " << name);
    return ComparedFigure{};
  };
  BOOST_TEST(*figure("output", "tokens/s").ratio() == 2);
  BOOST_TEST(*figure("output", "tokens/s").improved());
  BOOST_TEST(*figure("first token p50", "ms").ratio() == 0.5);
  BOOST_TEST(*figure("first token p50", "ms").improved());
  BOOST_TEST(!figure("first token p99", "ms").improved().has_value());
  BOOST_TEST(!figure("cached", "tokens").ratio().has_value());
  for (const ComparedFigure& each : compare(a_report(2), a_report())) {
    if (each.name == "output") BOOST_TEST(!*each.improved());
  }
  const std::string table = comparison_table(a_report(), a_report(2));
  BOOST_TEST(table.find("2.00x  better") != std::string::npos);
  BOOST_TEST(table.find("per output token") == std::string::npos);  // neither run has it
}

BOOST_AUTO_TEST_CASE(a_page_is_one_file_with_its_plots) {
  const std::string page = html_report(a_report());
  BOOST_TEST(count(page, "<svg") == 8u);
  BOOST_TEST(count(page, "</svg>") == 8u);
  BOOST_TEST(count(page, "nothing was measured") == 2u);  // TPOT and ITL
  for (const char* foreign : {"<script", "src=", "href=", "@import", "url("}) {
    BOOST_TEST(page.find(foreign) == std::string::npos, foreign);
  }
  for (const char* part : {"prefers-color-scheme: dark", "128.0", "come back later", "Time to first token"}) {
    BOOST_TEST(page.find(part) != std::string::npos, part);
  }
}

BOOST_AUTO_TEST_CASE(what_a_server_says_stays_text_on_a_page) {
  BenchReport report = a_report();
  for (std::string* text : {&report.label, &report.target, &report.model, &report.load, &report.workload,
                            &report.started_at, &report.errors[0].kind, &report.errors[0].example}) {
    *text = "<script>alert(\"1\")</script>&";
  }
  for (const std::string& page : {html_report(report), html_comparison(report, report)}) {
    BOOST_TEST(page.find("<script") == std::string::npos);
    BOOST_TEST(page.find("alert(\"") == std::string::npos);
  }
}

BOOST_AUTO_TEST_CASE(two_runs_share_their_plots) {
  const std::string page = html_comparison(a_report(), a_report(2));
  BOOST_TEST(count(page, "<svg") == 8u);
  BOOST_TEST(count(page, "class=\"series1\"") >= 3u);
  BOOST_TEST(page.find("<td class=\"better\">2.00x</td>") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(ticks_are_round_and_inside) {
  const std::vector<double> expected = {0, 20, 40, 60, 80, 100};
  BOOST_TEST(axis_ticks(0, 107, 6) == expected, boost::test_tools::per_element());
  for (const double high : {1e-9, 0.3, 7.0, 1234.0, 1e12}) {
    const auto ticks = axis_ticks(0, high, 6);
    BOOST_TEST(ticks.size() >= 3u);
    BOOST_TEST(ticks.size() <= 8u);
    BOOST_TEST(ticks.back() <= high * (1 + 1e-9));
  }
  BOOST_TEST(axis_ticks(5, 5, 6).size() == 1u);
  BOOST_TEST(axis_ticks(0, std::numeric_limits<double>::infinity(), 6).size() == 1u);
}

BOOST_AUTO_TEST_CASE(points_that_cannot_be_drawn_are_left_out) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::string svg =
      render_svg({.title = "t", .log_x = true, .series = {{"s", {{nan, 1}, {0, 0}, {1, nan}, {2, 0.5}, {20, 1}}}}});
  BOOST_TEST(svg.find("nan") == std::string::npos);
  BOOST_TEST(svg.find("inf") == std::string::npos);
  BOOST_TEST(count(svg, "<path") == 1u);
  const std::string lonely = render_svg({.title = "t", .series = {{"s", {{3, 0}}}}});
  BOOST_TEST(lonely.find("nan") == std::string::npos);
}

BOOST_AUTO_TEST_CASE(progress_has_a_bar_only_where_it_can_move) {
  const LoadProgress progress{
      .elapsed_s = 4, .share = 0.5, .answered = 8, .failed = 1, .in_flight = 3, .output_tokens = 80};
  BOOST_TEST(progress_line(progress, true).find("[###############...............] 4 s, 8 answered") == 0u);
  BOOST_TEST(progress_line(progress, false) == "4 s, 8 answered, 3 under way, 20.0 tokens/s, 1 failed");
}

}  // namespace troupe::cluster
