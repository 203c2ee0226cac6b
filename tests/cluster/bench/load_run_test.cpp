#include "cluster/bench/load_run.h"

#include <atomic>
#include <boost/test/unit_test.hpp>
#include <csignal>
#include <mutex>
#include <sstream>

#include "tests/cluster/http/scripted_server.h"

namespace troupe::cluster {
namespace {

using namespace std::chrono_literals;

LoadPlan plan_for(const ScriptedServer& server) {
  LoadPlan plan;
  plan.server = {"127.0.0.1", server.port(), ""};
  plan.target = "/v1/completions";
  plan.timeouts = {10s, 20s};
  plan.concurrency = 4;
  plan.requests = 20;
  plan.warmup = 1;
  return plan;
}

RequestBody body() {
  auto made = RequestBody::make({.model = "m"});
  BOOST_REQUIRE(made.ok());
  return *std::move(made);
}

Workload small(std::shared_ptr<const Trace> trace = nullptr) {
  return Workload({.prompt_tokens = LengthDistribution(5), .max_tokens = LengthDistribution(3), .block_tokens = 16},
                  trace);
}

std::shared_ptr<const Trace> trace_of(const std::string& text) {
  std::istringstream in(text);
  auto parsed = parse_trace(in, "trace", {});
  BOOST_REQUIRE_MESSAGE(parsed.ok(), (parsed.ok() ? "" : parsed.error().message));
  return std::make_shared<const Trace>(*std::move(parsed));
}

BenchReport run(LoadPlan plan, std::shared_ptr<const Trace> trace = nullptr) {
  LoadRun load(std::move(plan), small(trace), body(), trace, [](const LoadProgress&) {});
  const auto warm = load.warm_up();
  BOOST_REQUIRE_MESSAGE(warm.ok(), (warm.ok() ? "" : warm.error().message));
  return load.measure().report();
}

ScriptedServer::Reply answer() { return {completion_stream(3, 5, 2), false}; }

}  // namespace

BOOST_AUTO_TEST_CASE(a_closed_loop_has_as_many_connections_as_clients) {
  ScriptedServer server([](std::size_t, const std::string&) { return answer(); });
  const BenchReport report = run(plan_for(server));
  BOOST_TEST(server.requests() == 21u);
  BOOST_TEST(server.connections() == 4u);
  BOOST_TEST(report.sent == 20u);
  BOOST_TEST(report.answered == 20u);
  BOOST_TEST(report.failed == 0u);
  BOOST_TEST(report.peak_in_flight == 4u);
  BOOST_TEST(report.output_tokens == 60u);
  BOOST_TEST(report.prompt_tokens == 100u);
  BOOST_TEST(report.cached_tokens == 40u);
  BOOST_TEST(report.ttft_ms.count == 20u);
  BOOST_TEST(report.itl_ms.count == 40u);
}

BOOST_AUTO_TEST_CASE(the_same_seed_sends_the_same_requests_whatever_their_order) {
  const auto bodies = [](std::uint32_t concurrency) {
    std::mutex mutex;
    std::vector<std::string> seen;
    ScriptedServer server([&](std::size_t, const std::string& request) {
      const std::lock_guard lock(mutex);
      seen.push_back(request.substr(request.find("\r\n\r\n")));
      return answer();
    });
    LoadPlan plan = plan_for(server);
    plan.concurrency = concurrency;
    run(std::move(plan));
    std::sort(seen.begin(), seen.end());
    return seen;
  };
  BOOST_TEST(bodies(1) == bodies(7), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(an_open_loop_waits_for_no_answer_and_sheds_beyond_its_bound) {
  // All are due at once, and nobody is answered.
  std::string rows = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
  for (int i = 0; i < 20; ++i) rows += "0,5,3\n";
  const auto trace = trace_of(rows);
  ScriptedServer server([](std::size_t number, const std::string&) {
    return number == 0 ? answer() : ScriptedServer::Reply{stream_head(), false};
  });
  LoadPlan plan = plan_for(server);
  plan.arrivals = Arrivals::of_trace(trace, 1);
  plan.max_in_flight = 6;
  plan.timeouts = {2s, 2s};
  const BenchReport report = run(std::move(plan), trace);
  BOOST_TEST(report.sent == 6u);
  BOOST_TEST(report.shed == 14u);
  BOOST_TEST(report.peak_in_flight == 6u);
  BOOST_REQUIRE(report.errors.size() == 1u);
  BOOST_TEST(report.errors[0].kind == "timed_out");
  BOOST_TEST(report.errors[0].count == 6u);
}

BOOST_AUTO_TEST_CASE(a_trace_is_sent_once_and_its_reuse_counted) {
  const auto trace = trace_of(
      "{\"timestamp\": 0, \"input_length\": 1024, \"output_length\": 3, \"hash_ids\": [1, 2]}\n"
      "{\"timestamp\": 5, \"input_length\": 1024, \"output_length\": 3, \"hash_ids\": [1, 3]}\n"
      "{\"timestamp\": 9, \"input_length\": 1024, \"output_length\": 3, \"hash_ids\": [4, 3]}\n");
  ScriptedServer server([](std::size_t, const std::string&) { return answer(); });
  LoadPlan plan = plan_for(server);
  plan.arrivals = Arrivals::of_trace(trace, 1);
  const BenchReport report = run(std::move(plan), trace);
  BOOST_TEST(report.answered == 3u);
  BOOST_TEST(*report.reusable_tokens == 16u);
}

BOOST_AUTO_TEST_CASE(failures_are_counted_and_the_run_goes_on) {
  ScriptedServer server([](std::size_t number, const std::string&) -> ScriptedServer::Reply {
    switch (number) {
      case 1: return {http_answer(429, "application/json", "{\"error\":{\"message\":\"full\"}}", "Retry-After: 1\r\n")};
      case 2: return {stream_head() + chunk("data: {\"choices\":[{\"text\":\"a\"}]}\n\n") + "ff\r\ndata: {\"ch"};
      case 3: return {stream_head() + chunk("data: {\"error\":{\"message\":\"broke\"}}\n\n")};
      case 4: return {"220 mail.example.org ESMTP\r\n\r\n"};
      default: return answer();
    }
  });
  LoadPlan plan = plan_for(server);
  plan.concurrency = 1;
  const BenchReport report = run(std::move(plan));
  BOOST_TEST(report.sent == 20u);
  BOOST_TEST(report.answered == 16u);
  BOOST_TEST(report.failed == 4u);
  BOOST_TEST(report.retry_after == 1u);
  std::vector<std::string> kinds;
  for (const ErrorCount& error : report.errors) kinds.push_back(error.kind);
  const std::vector<std::string> expected = {"cut_stream", "http_429", "malformed", "stream_error"};
  BOOST_TEST(kinds == expected, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_server_that_refuses_the_warm_up_ends_the_run_with_its_reason) {
  ScriptedServer server([](std::size_t, const std::string&) {
    return ScriptedServer::Reply{
        http_answer(400, "application/json", "{\"error\":{\"message\":\"prompt[0] is wrong\"}}")};
  });
  LoadRun load(plan_for(server), small(), body(), nullptr, [](const LoadProgress&) {});
  const auto warm = load.warm_up();
  BOOST_REQUIRE(!warm.ok());
  BOOST_TEST(warm.error().message.find("prompt[0] is wrong") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_signal_ends_the_run_and_what_was_measured_stays) {
  // The fifth request that counts is never answered, and asks for the end.
  ScriptedServer server([](std::size_t number, const std::string&) {
    if (number < 5) return answer();
    std::raise(SIGINT);
    return ScriptedServer::Reply{stream_head(), false};
  });
  LoadPlan plan = plan_for(server);
  plan.concurrency = 1;
  LoadRun load(std::move(plan), small(), body(), nullptr, [](const LoadProgress&) {});
  BOOST_REQUIRE(load.warm_up().ok());
  const BenchReport report = load.measure().report();
  BOOST_TEST(load.interrupted());
  BOOST_TEST(report.answered == 4u);
  BOOST_TEST(report.unfinished == 1u);
  BOOST_TEST(report.failed == 0u);
}

BOOST_AUTO_TEST_CASE(a_duration_ends_the_sending_but_not_the_answers) {
  ScriptedServer server([](std::size_t, const std::string&) { return answer(); });
  LoadPlan plan = plan_for(server);
  plan.requests = 0;
  plan.duration_s = 0.2;
  const BenchReport report = run(std::move(plan));
  BOOST_TEST(report.sent == report.answered);
  BOOST_TEST(report.answered > 4u);
  BOOST_TEST(report.unfinished == 0u);
}

}  // namespace troupe::cluster
