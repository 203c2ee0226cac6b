#include "cluster/bench/answer_reader.h"

#include <boost/test/unit_test.hpp>

#include "cluster/bench/measurements.h"
#include "cluster/bench/queue_wait.h"

namespace troupe::cluster {
namespace {

AnswerReader reader(bool chat = false, const Limits& limits = {}) { return {chat, 10.0, 0.0, 5, 4, limits}; }

HttpOutcome whole() {
  HttpOutcome outcome;
  outcome.answer.status = 200;
  return outcome;
}

std::string piece(const std::string& text) { return "{\"choices\":[{\"text\":\"" + text + "\"}]}"; }

// An answer of so many tokens, the first after ttft_s, the others gap_s apart.
RequestRecord answered(double sent_s, double ttft_s, double gap_s, int tokens) {
  AnswerReader reading(false, sent_s, 0, 10, static_cast<std::uint32_t>(tokens), {});
  for (int i = 0; i < tokens; ++i) reading.add(piece("a"), sent_s + ttft_s + i * gap_s);
  reading.add("[DONE]", 0);
  return reading.finish(whole(), sent_s + ttft_s + (tokens - 1) * gap_s);
}

}  // namespace

BOOST_AUTO_TEST_CASE(times_are_those_of_the_pieces_with_text_and_tokens_those_of_the_usage) {
  AnswerReader reading = reader();
  BOOST_TEST(reading.add(piece(""), 10.5));
  BOOST_TEST(reading.add(piece("one"), 11.0));
  BOOST_TEST(reading.add("{\"choices\":[{\"text\":\"two\",\"finish_reason\":\"length\"}],\"usage\":null}", 12.0));
  BOOST_TEST(
      reading.add("{\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":5,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":3}}}",
                  12.1));
  BOOST_TEST(reading.add("[DONE]", 12.2));
  const RequestRecord record = reading.finish(whole(), 12.5);
  BOOST_TEST((record.result == RequestResult::kAnswered));
  BOOST_TEST(record.ttft_s() == 1.0);
  BOOST_TEST(*record.tpot_s() == 0.25);  // one second for the four tokens after the first
  BOOST_TEST(record.end_to_end_s() == 2.5);
  BOOST_TEST(record.prompt_tokens == 7u);
  BOOST_TEST(record.output_tokens == 5u);
  BOOST_TEST(record.cached_tokens == 3u);
}

BOOST_AUTO_TEST_CASE(without_a_usage_the_pieces_are_the_tokens) {
  AnswerReader reading = reader(true);
  reading.add("{\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}", 11.0);
  reading.add("{\"choices\":[{\"delta\":{\"reasoning_content\":\"hm\"}}]}", 12.0);
  reading.add("{\"choices\":[{\"delta\":{\"content\":\"yes\"}}],\"timings\":{\"cache_n\":2}}", 13.0);
  reading.add("[DONE]", 13.0);
  const RequestRecord record = reading.finish(whole(), 13.0);
  BOOST_TEST(record.output_tokens == 2u);
  BOOST_TEST(record.prompt_tokens == 5u);
  BOOST_TEST(record.cached_tokens == 2u);
  BOOST_TEST(record.ttft_s() == 2.0);
}

BOOST_AUTO_TEST_CASE(tokens_without_text_count_from_the_first_event) {
  AnswerReader reading = reader();
  reading.add(piece(""), 11.0);
  reading.add("{\"choices\":[],\"usage\":{\"completion_tokens\":1}}", 12.0);
  reading.add("[DONE]", 12.0);
  const RequestRecord record = reading.finish(whole(), 12.0);
  BOOST_TEST((record.result == RequestResult::kAnswered));
  BOOST_TEST(record.ttft_s() == 1.0);
  BOOST_TEST(!record.tpot_s().has_value());
}

BOOST_AUTO_TEST_CASE(every_way_to_fail_has_its_kind) {
  const auto kind = [](const std::vector<std::string>& events, const HttpOutcome& outcome) {
    Limits limits;
    limits.bench_pieces = 3;
    AnswerReader reading = reader(false, limits);
    for (const std::string& event : events) {
      if (!reading.add(event, 11.0)) break;
    }
    const RequestRecord record = reading.finish(outcome, 12.0);
    BOOST_TEST(!record.error.empty());
    return error_kind(record);
  };
  const auto ending = [](HttpEnding how) {
    HttpOutcome outcome = whole();
    outcome.ending = how;
    outcome.error = unavailable("why");
    return outcome;
  };
  HttpOutcome refused = whole();
  refused.answer.status = 503;
  BOOST_TEST(kind({}, refused) == "http_503");
  HttpOutcome plain = whole();
  plain.answer.body = "{\"choices\":[]}";
  BOOST_TEST(kind({}, plain) == "malformed");
  BOOST_TEST(kind({}, ending(HttpEnding::kNoConnection)) == "no_connection");
  BOOST_TEST(kind({piece("a")}, ending(HttpEnding::kTimedOut)) == "timed_out");
  BOOST_TEST(kind({piece("a")}, ending(HttpEnding::kCut)) == "cut_stream");
  BOOST_TEST(kind({piece("a")}, ending(HttpEnding::kMalformed)) == "malformed");
  BOOST_TEST(kind({piece("a")}, whole()) == "cut_stream");
  BOOST_TEST(kind({piece("a"), "{\"error\":{\"message\":\"gone\"}}", "[DONE]"}, whole()) == "stream_error");
  BOOST_TEST(kind({"{\"choices\":", "[DONE]"}, whole()) == "malformed");
  BOOST_TEST(kind({"3", "[DONE]"}, whole()) == "malformed");
  BOOST_TEST(kind({piece(""), "[DONE]"}, whole()) == "no_output");
  BOOST_TEST(kind({"[DONE]"}, whole()) == "no_output");
  BOOST_TEST(kind({piece("a"), piece("b"), piece("c"), piece("d"), "[DONE]"}, whole()) == "malformed");
}

BOOST_AUTO_TEST_CASE(events_of_the_wrong_kind_do_no_harm) {
  AnswerReader reading = reader();
  for (const char* event : {"{}", "{\"choices\":3}", "{\"choices\":[3,null,[]]}", "{\"choices\":[{\"text\":7}]}",
                            "{\"usage\":[]}", "{\"usage\":{\"completion_tokens\":-3,\"prompt_tokens\":\"x\"}}",
                            "{\"usage\":{\"completion_tokens\":1e30}}", "{\"error\":null}"}) {
    BOOST_TEST(reading.add(event, 11.0), event);
  }
  reading.add(piece("a"), 12.0);
  reading.add("[DONE]", 12.0);
  const RequestRecord record = reading.finish(whole(), 12.0);
  BOOST_TEST((record.result == RequestResult::kAnswered));
  BOOST_TEST(record.output_tokens == 1u);
  BOOST_TEST(record.prompt_tokens == 5u);
}

BOOST_AUTO_TEST_CASE(rates_are_over_the_time_from_the_first_request_to_the_last_answer) {
  Measurements measurements({.ttft_ms = 500, .tpot_ms = 100}, 0);
  const RequestRecord records[] = {answered(1, 0.4, 0.05, 11),    // good
                                   answered(1.5, 0.6, 0.05, 11),  // its first token is late
                                   answered(2, 0.4, 0.2, 11),     // and the others of this one
                                   answered(3, 0.4, 0, 1)};       // good: it has no others
  for (const RequestRecord& record : records) measurements.sent(record.sent_s);
  for (const RequestRecord& record : records) measurements.ended(record);
  const BenchReport report = measurements.report();
  BOOST_TEST(report.answered == 4u);
  BOOST_TEST(report.wall_s == 3.4, boost::test_tools::tolerance(1e-9));
  BOOST_TEST(report.output_tokens == 34u);
  BOOST_TEST(report.output_tokens_per_s == 34 / 3.4, boost::test_tools::tolerance(1e-9));
  BOOST_TEST(report.requests_per_s == 4 / 3.4, boost::test_tools::tolerance(1e-9));
  BOOST_TEST(report.goodput_requests_per_s == 2 / 3.4, boost::test_tools::tolerance(1e-9));
  BOOST_TEST(report.goodput_tokens_per_s == 12 / 3.4, boost::test_tools::tolerance(1e-9));
  BOOST_TEST(report.goodput_share == 0.5);
  BOOST_TEST(report.ttft_ms.p50 == 400, boost::test_tools::tolerance(0.005));
  BOOST_TEST(report.ttft_ms.max == 600, boost::test_tools::tolerance(1e-9));
  BOOST_TEST(report.tpot_ms.count == 3u);
  BOOST_TEST(report.itl_ms.count == 30u);
  BOOST_TEST(report.itl_ms.p99 == 200, boost::test_tools::tolerance(0.005));
  BOOST_TEST(report.peak_in_flight == 4u);
  double tokens = 0;
  for (const double rate : report.output_tokens_over_time) tokens += rate * report.interval_s;
  BOOST_TEST(tokens == 34, boost::test_tools::tolerance(1e-9));
}

BOOST_AUTO_TEST_CASE(errors_are_counted_by_kind_and_refusals_apart) {
  Measurements measurements({}, 0);
  const auto fail = [&](RequestResult result, int status, bool retry_after, const char* why) {
    measurements.sent(1);
    measurements.ended({.result = result, .status = status, .retry_after = retry_after, .error = why, .end_s = 1});
  };
  fail(RequestResult::kHttpStatus, 429, true, "first");
  fail(RequestResult::kTimedOut, 0, false, "slow");
  fail(RequestResult::kHttpStatus, 429, false, "second");
  fail(RequestResult::kUnfinished, 0, false, "");
  measurements.count_shed();
  const BenchReport report = measurements.report();
  BOOST_TEST(report.failed == 3u);
  BOOST_TEST(report.unfinished == 1u);
  BOOST_TEST(report.shed == 1u);
  BOOST_TEST(report.retry_after == 1u);
  BOOST_REQUIRE(report.errors.size() == 2u);
  BOOST_TEST(report.errors[0].kind == "http_429");
  BOOST_TEST(report.errors[0].count == 2u);
  BOOST_TEST(report.errors[0].example == "first");
  BOOST_TEST(report.errors[1].kind == "timed_out");
  BOOST_TEST(report.output_tokens_per_s == 0);
}

BOOST_AUTO_TEST_CASE(the_servers_queue_is_read_from_its_metrics) {
  const auto before = parse_queue_wait(
      "# HELP troupe_request_queue_seconds x\ntroupe_request_queue_seconds_bucket{le=\"1\"} 3\n"
      "troupe_request_queue_seconds_sum{node=\"a}b\"} 1.5\ntroupe_request_queue_seconds_count{node=\"a}b\"} 3\n");
  const auto after = parse_queue_wait("troupe_request_queue_seconds_sum 2.5\ntroupe_request_queue_seconds_count 5\n");
  BOOST_REQUIRE(before.has_value());
  BOOST_TEST(*mean_queue_wait_ms(before, after) == 500);
  BOOST_TEST(!mean_queue_wait_ms(before, before).has_value());
  BOOST_TEST(!mean_queue_wait_ms(after, before).has_value());
  for (const char* text : {"", "other_sum 3", "troupe_request_queue_seconds_sum x\n",
                           "troupe_request_queue_seconds_sum{ 3\ntroupe_request_queue_seconds_count nan\n"}) {
    BOOST_TEST(!parse_queue_wait(text).has_value());
  }
}

}  // namespace troupe::cluster
