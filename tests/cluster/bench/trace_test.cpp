#include "cluster/bench/trace.h"

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <sstream>

namespace troupe::cluster {
namespace {

Result<Trace> parse(const std::string& text, const Limits& limits = {}) {
  std::istringstream in(text);
  return parse_trace(in, "some.trace", limits);
}

// The refusal of a text, which names its line.
void check_refused(const std::string& text, int line, const std::string& why, const Limits& limits = {}) {
  BOOST_TEST_CONTEXT(text.substr(0, 200)) {
    const auto trace = parse(text, limits);
    BOOST_REQUIRE(!trace.ok());
    const std::string& message = trace.error().message;
    BOOST_TEST(message.starts_with("some.trace:" + std::to_string(line) + ": "), message);
    BOOST_TEST(message.find(why) != std::string::npos, message);
  }
}

const std::string kHeader = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
const std::string kRow = "2023-11-16 18:15:46.6805900,374,44\n";

}  // namespace

BOOST_AUTO_TEST_CASE(a_csv_trace_has_times_after_its_first_request) {
  const auto trace = parse(
      "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 23:59:59.5000000,374,44\r\n"
      "2023-11-17 00:00:00.2500000,396,109\r\n2023-11-17T00:01:00Z,1,0");
  BOOST_REQUIRE_MESSAGE(trace.ok(), (trace.ok() ? "" : trace.error().message));
  BOOST_REQUIRE(trace->requests.size() == 3u);
  BOOST_TEST(trace->requests[0].arrival_s == 0);
  BOOST_TEST(trace->requests[1].arrival_s == 0.75, boost::test_tools::tolerance(1e-6));
  BOOST_TEST(trace->requests[2].arrival_s == 60.5, boost::test_tools::tolerance(1e-6));
  BOOST_TEST(trace->requests[1].prompt_tokens == 396u);
  BOOST_TEST(trace->requests[1].output_tokens == 109u);
  BOOST_TEST(trace->rate(3) == 2 / 60.5, boost::test_tools::tolerance(1e-6));
  BOOST_TEST(trace->rate(2) == 1 / 0.75, boost::test_tools::tolerance(1e-6));
  BOOST_TEST(trace->rate(1) == 0);
  BOOST_TEST(!trace->has_blocks());
}

BOOST_AUTO_TEST_CASE(columns_may_stand_in_any_order_beside_others_and_times_may_be_seconds) {
  const auto trace = parse("GeneratedTokens, user ,ContextTokens,TIMESTAMP\n\n7,anna,5,0.5\n8,bert,6,1.75\n");
  BOOST_REQUIRE_MESSAGE(trace.ok(), (trace.ok() ? "" : trace.error().message));
  BOOST_REQUIRE(trace->requests.size() == 2u);
  BOOST_TEST(trace->requests[1].arrival_s == 1.25);
  BOOST_TEST(trace->requests[1].prompt_tokens == 6u);
  BOOST_TEST(trace->requests[1].output_tokens == 8u);
}

BOOST_AUTO_TEST_CASE(broken_csv_lines_are_named_with_what_is_wrong) {
  check_refused("TIMESTAMP,GeneratedTokens\n", 1, "no column ContextTokens");
  check_refused("hello\n", 1, "no column TIMESTAMP");
  check_refused(kHeader + kRow + "2023-11-16 18:15:47,374\n", 3, "2 columns, the header 3");
  check_refused(kHeader + "yesterday,1,1\n", 2, "TIMESTAMP is 'yesterday'");
  check_refused(kHeader + "2023-13-16 18:15:46,1,1\n", 2, "TIMESTAMP");
  check_refused(kHeader + "2023-02-30 18:15:46,1,1\n", 2, "TIMESTAMP");
  check_refused(kHeader + "2023-11-16 18:15:46.,1,1\n", 2, "TIMESTAMP");
  check_refused(kHeader + "nan,1,1\n", 2, "TIMESTAMP");
  check_refused(kHeader + "1,-5,1\n", 2, "ContextTokens is '-5'");
  check_refused(kHeader + "1,5.5,1\n", 2, "ContextTokens is '5.5'");
  check_refused(kHeader + "1,99999999999,1\n", 2, "ContextTokens");
  check_refused(kHeader + "1,5,many\n", 2, "GeneratedTokens is 'many'");
  check_refused(kHeader + "1,1,1\n0.5,1,1\n", 3, "0.5 s before the one above it; sort the trace");
}

BOOST_AUTO_TEST_CASE(a_jsonl_trace_has_milliseconds_and_blocks) {
  const auto trace = parse(
      "{\"timestamp\": 1000, \"input_length\": 513, \"output_length\": 9, \"hash_ids\": [7, 8]}\n"
      "{\"timestamp\": 1500.5, \"input_length\": 512, \"output_length\": 3, \"hash_ids\": [7], \"more\": 1}\n");
  BOOST_REQUIRE_MESSAGE(trace.ok(), (trace.ok() ? "" : trace.error().message));
  BOOST_REQUIRE(trace->requests.size() == 2u);
  BOOST_TEST(trace->requests[1].arrival_s == 0.5005, boost::test_tools::tolerance(1e-9));
  BOOST_TEST(trace->has_blocks());
  BOOST_TEST(trace->blocks_of(trace->requests[0]).size() == 2u);
  BOOST_TEST(trace->blocks_of(trace->requests[1])[0] == 7u);
}

BOOST_AUTO_TEST_CASE(broken_jsonl_lines_are_named_with_what_is_wrong) {
  const std::string good = "{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 9, \"hash_ids\": [7]}\n";
  check_refused(good + "{\"timestamp\": 0,", 2, "not a JSON object");
  check_refused(good + "[1]\n", 2, "not a JSON object");
  check_refused("{\"input_length\": 5, \"output_length\": 9}\n", 1, "no timestamp");
  check_refused("{\"timestamp\": -1, \"input_length\": 5, \"output_length\": 9}\n", 1, "timestamp is not");
  check_refused("{\"timestamp\": \"a\", \"input_length\": 5, \"output_length\": 9}\n", 1, "timestamp is not");
  check_refused("{\"timestamp\": 0, \"output_length\": 9}\n", 1, "no input_length");
  check_refused("{\"timestamp\": 0, \"input_length\": -5, \"output_length\": 9}\n", 1, "input_length is not");
  check_refused("{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1.5}\n", 1, "output_length is not");
  check_refused("{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 9, \"hash_ids\": 3}\n", 1, "not a list");
  check_refused("{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 9, \"hash_ids\": [-3]}\n", 1,
                "hash_ids[0] is not");
  check_refused("{\"timestamp\": 0, \"input_length\": 513, \"output_length\": 9, \"hash_ids\": [3]}\n", 1,
                "1 hash_ids, but a prompt of 513 tokens has 2 blocks");
  check_refused(good + "{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 9}\n", 2, "no hash_ids");
  check_refused(
      "{\"timestamp\": 9, \"input_length\": 5, \"output_length\": 9}\n"
      "{\"timestamp\": 8, \"input_length\": 5, \"output_length\": 9}\n",
      2, "sort the trace");
}

BOOST_AUTO_TEST_CASE(limits_are_named_when_a_trace_goes_beyond_them) {
  Limits limits;
  limits.trace_line_bytes = 100;
  check_refused(kHeader + std::string(101, 'x'), 2, "limit trace_line_bytes", limits);
  limits = {};
  limits.trace_requests = 1;
  check_refused(kHeader + kRow + kRow, 3, "limit trace_requests", limits);
  limits = {};
  limits.trace_blocks = 1;
  check_refused("{\"timestamp\": 0, \"input_length\": 513, \"output_length\": 9, \"hash_ids\": [3, 4]}\n", 1,
                "limit trace_blocks", limits);
}

BOOST_AUTO_TEST_CASE(a_file_without_requests_is_refused_by_its_name) {
  for (const std::string& text : {std::string(), std::string("\n \n"), kHeader}) {
    BOOST_TEST(parse(text).error().message == "some.trace holds no request");
  }
  BOOST_TEST(read_trace("/nowhere/at.all", {}).error().message.find("/nowhere/at.all") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(published_traces_are_read_whole) {
  const char* folder = std::getenv("TROUPE_FIXTURES");
  const std::filesystem::path traces = std::filesystem::path(folder ? folder : "../shared/fixtures") / "traces";
  if (!std::filesystem::exists(traces)) {
    BOOST_TEST_MESSAGE("skipped: no fixtures in " << traces);
    return;
  }
  const auto azure = read_trace(traces / "AzureLLMInferenceTrace_conv.csv", {});
  BOOST_REQUIRE_MESSAGE(azure.ok(), (azure.ok() ? "" : azure.error().message));
  BOOST_TEST(azure->requests.size() == 19366u);
  const auto mooncake = read_trace(traces / "conversation_trace.jsonl", {});
  BOOST_REQUIRE_MESSAGE(mooncake.ok(), (mooncake.ok() ? "" : mooncake.error().message));
  BOOST_TEST(mooncake->requests.size() == 12031u);
  BOOST_TEST(mooncake->requests.back().arrival_s == 3536.999, boost::test_tools::tolerance(1e-9));
}

}  // namespace troupe::cluster
