#include "cluster/bench/workload.h"

#include <algorithm>
#include <boost/json.hpp>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <sstream>

#include "cluster/bench/arrivals.h"
#include "cluster/bench/block_reuse.h"
#include "cluster/bench/request_body.h"

namespace troupe::cluster {
namespace {

LengthDistribution lengths(std::string_view text) {
  auto parsed = LengthDistribution::parse(text);
  BOOST_REQUIRE_MESSAGE(parsed.ok(), (parsed.ok() ? "" : parsed.error().message));
  return *parsed;
}

std::shared_ptr<const Trace> trace_of(const std::string& text) {
  std::istringstream in(text);
  auto trace = parse_trace(in, "trace", {});
  BOOST_REQUIRE_MESSAGE(trace.ok(), (trace.ok() ? "" : trace.error().message));
  return std::make_shared<const Trace>(*std::move(trace));
}

const std::string kBlocks =
    "{\"timestamp\": 0, \"input_length\": 1100, \"output_length\": 9, \"hash_ids\": [1, 2, 3]}\n"
    "{\"timestamp\": 2000, \"input_length\": 1025, \"output_length\": 40, \"hash_ids\": [1, 2, 4]}\n"
    "{\"timestamp\": 6000, \"input_length\": 600, \"output_length\": 9, \"hash_ids\": [1, 5]}\n";

std::size_t common_prefix(const std::vector<std::uint32_t>& a, const std::vector<std::uint32_t>& b) {
  const auto end = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first;
  return static_cast<std::size_t>(end - a.begin());
}

}  // namespace

BOOST_AUTO_TEST_CASE(lengths_keep_to_what_was_asked_for) {
  RandomStream random(1, RandomStream::Purpose::kRequest);
  BOOST_TEST(lengths("128").sample(random) == 128u);
  std::uint32_t low = 1 << 30, high = 0;
  for (int i = 0; i < 2000; ++i) {
    const std::uint32_t length = lengths("3-9").sample(random);
    low = std::min(low, length);
    high = std::max(high, length);
  }
  BOOST_TEST(low == 3u);
  BOOST_TEST(high == 9u);
}

BOOST_AUTO_TEST_CASE(a_log_normal_length_has_its_median_and_deviation) {
  RandomStream random(2, RandomStream::Purpose::kRequest);
  std::vector<double> logs;
  for (int i = 0; i < 20000; ++i) logs.push_back(std::log(lengths("lognormal:1000:0.5").sample(random)));
  std::sort(logs.begin(), logs.end());
  BOOST_TEST(std::exp(logs[logs.size() / 2]) == 1000, boost::test_tools::tolerance(0.03));
  // One deviation up is the 84.1th percentile.
  BOOST_TEST(logs[logs.size() * 841 / 1000] - logs[logs.size() / 2] == 0.5, boost::test_tools::tolerance(0.05));
}

BOOST_AUTO_TEST_CASE(lengths_are_written_as_they_are_read) {
  for (const char* text : {"128", "64-256", "lognormal:100:0.5"}) BOOST_TEST(lengths(text).to_string() == text);
}

BOOST_AUTO_TEST_CASE(what_is_no_length_is_refused) {
  for (const char* text : {"", "0", "-5", "5-", "-", "9-3", "1.5", "99999999999", "128 ", "lognormal", "lognormal:5",
                           "lognormal:0:1", "lognormal:5:0", "lognormal:5:-1", "lognormal:5:nan", "lognormal:5:1:2"}) {
    BOOST_TEST_CONTEXT(text) { BOOST_TEST(!LengthDistribution::parse(text).ok()); }
  }
}

BOOST_AUTO_TEST_CASE(a_request_is_the_same_whenever_it_is_asked_for) {
  const Workload one({.prompt_tokens = lengths("10-50"), .seed = 7}, nullptr);
  const Workload again({.prompt_tokens = lengths("10-50"), .seed = 7}, nullptr);
  const Workload other({.prompt_tokens = lengths("10-50"), .seed = 8}, nullptr);
  const auto late = one.request(5);
  BOOST_TEST(one.request(3).prompt == again.request(3).prompt);
  BOOST_TEST(late.prompt == again.request(5).prompt);
  BOOST_TEST(late.seed == again.request(5).seed);
  BOOST_TEST(one.request(3).prompt != one.request(4).prompt);
  BOOST_TEST(one.request(3).prompt != other.request(3).prompt);
  BOOST_TEST(one.request(3).prompt != one.warmup(3).prompt);
}

BOOST_AUTO_TEST_CASE(token_ids_stay_inside_the_vocabulary) {
  for (const std::uint32_t vocabulary : {10u, 11u, 1000u}) {
    const Workload workload({.prompt_tokens = lengths("5000"), .vocab_size = vocabulary}, nullptr);
    const auto prompt = workload.request(0).prompt;
    const auto [low, high] = std::minmax_element(prompt.begin(), prompt.end());
    BOOST_TEST(*low == vocabulary / 10);
    BOOST_TEST(*high == vocabulary - vocabulary / 10 - 1);
  }
}

BOOST_AUTO_TEST_CASE(all_prompts_begin_with_the_shared_prefix) {
  const Workload workload({.prompt_tokens = lengths("30-40"), .shared_prefix = 20}, nullptr);
  for (std::uint64_t i = 1; i < 20; ++i) {
    BOOST_TEST(common_prefix(workload.request(0).prompt, workload.request(i).prompt) >= 20u);
    BOOST_TEST(common_prefix(workload.request(0).prompt, workload.request(i).prompt) < 25u);
  }
  const Workload shorter({.prompt_tokens = lengths("8"), .shared_prefix = 20}, nullptr);
  BOOST_TEST(shorter.request(0).prompt.size() == 8u);
}

BOOST_AUTO_TEST_CASE(equal_hash_ids_become_equal_blocks_of_the_size_asked_for) {
  const Workload workload({.block_tokens = 16}, trace_of(kBlocks));
  const auto first = workload.request(0).prompt, second = workload.request(1).prompt,
             third = workload.request(2).prompt;
  BOOST_TEST(first.size() == 34u);  // 1100 / 512 * 16
  BOOST_TEST(second.size() == 32u);
  BOOST_TEST(third.size() == 19u);
  BOOST_TEST(common_prefix(first, second) == 32u);
  BOOST_TEST(common_prefix(first, third) == 16u);
  BOOST_TEST(workload.request(3).prompt == first);  // the trace begins again
  BOOST_TEST(workload.request(1).max_tokens == 40u);
}

BOOST_AUTO_TEST_CASE(prompt_and_answer_are_clipped_to_the_models_length) {
  const Workload workload({.max_model_len = 50, .block_tokens = 16}, trace_of(kBlocks));
  const auto clipped = workload.request(1);
  BOOST_TEST(clipped.clipped);
  BOOST_TEST(clipped.prompt.size() == 10u);
  BOOST_TEST(clipped.max_tokens == 40u);
  BOOST_TEST(workload.blocks(1).size() == 1u);
  const Workload longer({.max_model_len = 2, .block_tokens = 16}, trace_of(kBlocks));
  BOOST_TEST(longer.request(1).prompt.size() == 1u);
  BOOST_TEST(longer.request(1).max_tokens == 1u);
  BOOST_TEST(!Workload({.block_tokens = 16}, trace_of(kBlocks)).request(1).clipped);
}

BOOST_AUTO_TEST_CASE(a_csv_trace_gives_lengths_that_scale) {
  const auto trace = trace_of("TIMESTAMP,ContextTokens,GeneratedTokens\n0,100,10\n3,0,0\n");
  const Workload workload({.prompt_scale = 0.25, .output_scale = 2}, trace);
  BOOST_TEST(workload.request(0).prompt.size() == 25u);
  BOOST_TEST(workload.request(0).max_tokens == 20u);
  BOOST_TEST(workload.request(1).prompt.size() == 1u);  // nothing cannot be asked
  BOOST_TEST(workload.request(1).max_tokens == 1u);
}

BOOST_AUTO_TEST_CASE(an_empty_prompt_of_a_trace_with_blocks_becomes_one_token) {
  const Workload workload({}, trace_of(kBlocks + "{\"timestamp\": 7000, \"input_length\": 0, \"output_length\": 0, "
                                                 "\"hash_ids\": []}\n"));
  BOOST_TEST(workload.request(3).prompt.size() == 1u);
  BOOST_TEST(workload.request(3).max_tokens == 1u);
}

BOOST_AUTO_TEST_CASE(reuse_counts_leading_full_blocks_that_came_before) {
  BlockReuse reuse;
  const std::vector<std::uint64_t> a = {1, 2, 3}, b = {1, 2, 4}, c = {9, 2}, d = {1, 2};
  BOOST_TEST(reuse.add(a, 40, 16) == 0u);
  BOOST_TEST(reuse.add(b, 48, 16) == 32u);
  BOOST_TEST(reuse.add(c, 32, 16) == 0u);   // 2 came before, but not behind 9
  BOOST_TEST(reuse.add(a, 48, 16) == 32u);  // its third block was not full the first time
  BOOST_TEST(reuse.add(d, 32, 16) == 16u);  // one token at least is computed
}

BOOST_AUTO_TEST_CASE(poisson_arrivals_have_their_rate_and_can_be_repeated) {
  Arrivals arrivals = Arrivals::poisson(50, 3), again = Arrivals::poisson(50, 3);
  BOOST_TEST(*arrivals.next_s() == 0);
  BOOST_TEST(*again.next_s() == 0);
  double last = 0, squares = 0;
  constexpr int kGaps = 20000;
  for (int i = 0; i < kGaps; ++i) {
    const double due = *arrivals.next_s();
    BOOST_TEST(due == *again.next_s());
    squares += (due - last) * (due - last);
    last = due;
  }
  BOOST_TEST(kGaps / last == 50, boost::test_tools::tolerance(0.03));
  // Of exponential gaps the mean square is twice the squared mean.
  BOOST_TEST(squares / kGaps == 2.0 / (50 * 50), boost::test_tools::tolerance(0.06));
}

BOOST_AUTO_TEST_CASE(a_traces_arrivals_scale_and_end) {
  Arrivals arrivals = Arrivals::of_trace(trace_of(kBlocks), 0.5);
  BOOST_TEST(*arrivals.next_s() == 0);
  BOOST_TEST(*arrivals.next_s() == 1);
  BOOST_TEST(*arrivals.next_s() == 3);
  BOOST_TEST(!arrivals.next_s().has_value());
}

BOOST_AUTO_TEST_CASE(a_body_is_what_the_api_takes) {
  const auto body = RequestBody::make({.model = "m\"x", .extra = {{"top_p", 0.5}, {"temperature", 1}}});
  BOOST_REQUIRE(body.ok());
  const auto json = boost::json::parse(body->write({.prompt = {5, 6}, .max_tokens = 7, .seed = 8})).get_object();
  BOOST_TEST(json.at("prompt") == (boost::json::array{5, 6}));
  BOOST_TEST(json.at("model") == "m\"x");
  BOOST_TEST(json.at("max_tokens") == 7);
  BOOST_TEST(json.at("seed") == 8);
  BOOST_TEST(json.at("top_p") == 0.5);
  BOOST_TEST(json.at("temperature") == 1);
  BOOST_TEST(json.at("stream") == true);
  BOOST_TEST(json.at("stream_options") == (boost::json::object{{"include_usage", true}}));
  BOOST_TEST(json.at("ignore_eos") == true);
}

BOOST_AUTO_TEST_CASE(a_chat_has_a_user_who_speaks_as_many_words) {
  const auto body = RequestBody::make({.chat = true, .prompt_kind = PromptKind::kWords, .ignore_eos = false});
  BOOST_REQUIRE(body.ok());
  const auto json = boost::json::parse(body->write({.prompt = {5, 6, 5}})).get_object();
  const auto& message = json.at("messages").at(0);
  BOOST_TEST(message.at("role") == "user");
  const std::string_view text = message.at("content").get_string();
  BOOST_TEST(std::count(text.begin(), text.end(), ' ') == 2);
  BOOST_TEST(text.substr(0, text.find(' ')) == text.substr(text.rfind(' ') + 1));
  BOOST_TEST(!json.contains("prompt"));
  BOOST_TEST(!json.contains("ignore_eos"));
}

BOOST_AUTO_TEST_CASE(extra_members_replace_ours_but_never_the_stream) {
  const auto body = RequestBody::make({.extra = {{"max_tokens", 3}, {"prompt", "mine"}}});
  BOOST_REQUIRE(body.ok());
  const std::string text = body->write({.prompt = {5}, .max_tokens = 9});
  BOOST_TEST(boost::json::parse(text).at("max_tokens") == 3);
  BOOST_TEST(boost::json::parse(text).at("prompt") == "mine");
  BOOST_TEST(text.find("max_tokens") == text.rfind("max_tokens"));
  for (const char* key : {"stream", "stream_options"}) {
    const auto refused = RequestBody::make({.extra = {{key, false}}});
    BOOST_REQUIRE(!refused.ok());
    BOOST_TEST(refused.error().message.find(std::string("--extra: ") + key) != std::string::npos);
  }
  BOOST_TEST(!RequestBody::make({.chat = true, .prompt_kind = PromptKind::kTokenIds}).ok());
}

}  // namespace troupe::cluster
