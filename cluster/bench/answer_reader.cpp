#include "cluster/bench/answer_reader.h"

#include <fmt/format.h>

#include <array>
#include <boost/json.hpp>
#include <limits>

#include "cluster/http/json_member.h"
#include "cluster/http/served_model.h"
#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

namespace json = boost::json;

constexpr std::size_t kShownBytes = 160;
constexpr std::size_t kEventBytes = 4096;  // parsed without touching the heap

std::optional<std::uint32_t> count_of(const json::value* value) {
  if (value == nullptr || !value->is_int64()) return std::nullopt;
  const std::int64_t number = value->get_int64();
  if (number < 0 || number > std::numeric_limits<std::int32_t>::max()) return std::nullopt;
  return static_cast<std::uint32_t>(number);
}

bool has_text(const json::value* value) {
  const json::string* text = value == nullptr ? nullptr : value->if_string();
  return text != nullptr && !text->empty();
}

// What a refusal's body says.
std::string refusal_text(const HttpAnswer& answer) {
  json::error_code error;
  const json::value body = json::parse(answer.body, error);
  return one_line(gateway_error(answer.status, error ? nullptr : &body, answer.body).message, kShownBytes);
}

}  // namespace

AnswerReader::AnswerReader(bool chat, double sent_s, double late_s, std::uint32_t prompt_tokens,
                           std::uint32_t max_tokens, const Limits& limits)
    : chat_(chat), max_pieces_(limits.bench_pieces) {
  record_.sent_s = sent_s;
  record_.late_s = late_s;
  record_.prompt_tokens = prompt_tokens;
  record_.max_tokens = max_tokens;
}

bool AnswerReader::add(std::string_view data, double now_s) {
  if (data == "[DONE]") {
    done_ = true;
    return true;
  }
  std::array<unsigned char, kEventBytes> memory;
  json::monotonic_resource resource(memory.data(), memory.size());
  json::error_code error;
  const json::value chunk = json::parse(data, error, &resource);
  if (error || !chunk.is_object()) {
    return give_up(RequestResult::kMalformed, "an event is no JSON object: " + one_line(data, kShownBytes));
  }
  if (const json::value* found = json_member(&chunk, "error"); found != nullptr && !found->is_null()) {
    const std::string message = json_text(json_member(found, "message"));
    return give_up(RequestResult::kStreamError, one_line(message.empty() ? data : message, kShownBytes));
  }
  read_usage(chunk);
  read_choices(chunk, now_s);
  if (record_.pieces_s.size() > max_pieces_) {
    return give_up(RequestResult::kMalformed,
                   fmt::format("the stream has more than {} pieces (limit bench_pieces)", max_pieces_));
  }
  return true;
}

void AnswerReader::read_choices(const json::value& chunk, double now_s) {
  const json::value* choices = json_member(&chunk, "choices");
  const json::array* list = choices == nullptr ? nullptr : choices->if_array();
  if (list == nullptr) return;
  for (const json::value& choice : *list) {
    if (!first_event_s_) first_event_s_ = now_s;
    const json::value* delta = json_member(&choice, "delta");
    const bool text = chat_
                          ? has_text(json_member(delta, "content")) || has_text(json_member(delta, "reasoning_content"))
                          : has_text(json_member(&choice, "text"));
    if (text) record_.pieces_s.push_back(now_s);
  }
}

void AnswerReader::read_usage(const json::value& chunk) {
  const json::value* usage = json_member(&chunk, "usage");
  if (const auto count = count_of(json_member(usage, "prompt_tokens"))) record_.prompt_tokens = *count;
  if (const auto count = count_of(json_member(usage, "completion_tokens"))) record_.output_tokens = *count;
  auto cached = count_of(json_member(json_member(usage, "prompt_tokens_details"), "cached_tokens"));
  // Where llama-server says it.
  if (!cached) cached = count_of(json_member(json_member(&chunk, "timings"), "cache_n"));
  if (cached) record_.cached_tokens = *cached;
}

bool AnswerReader::give_up(RequestResult result, std::string why) {
  fail(result, std::move(why));
  return false;
}

void AnswerReader::fail(RequestResult result, std::string why) {
  if (record_.result != RequestResult::kAnswered) return;  // the first one counts
  record_.result = result;
  record_.error = std::move(why);
}

RequestRecord AnswerReader::finish(const HttpOutcome& outcome, double now_s) {
  record_.end_s = now_s;
  record_.status = outcome.answer.status;
  switch (outcome.ending) {
    case HttpEnding::kComplete:
    case HttpEnding::kEnough: break;
    case HttpEnding::kCancelled: fail(RequestResult::kUnfinished, ""); break;
    case HttpEnding::kNoConnection: fail(RequestResult::kNoConnection, outcome.error.message); break;
    case HttpEnding::kTimedOut: fail(RequestResult::kTimedOut, outcome.error.message); break;
    case HttpEnding::kCut: fail(RequestResult::kCutStream, outcome.error.message); break;
    case HttpEnding::kMalformed: fail(RequestResult::kMalformed, outcome.error.message); break;
  }
  if (record_.status != 200) {
    record_.retry_after = !outcome.answer.retry_after.empty();
    fail(RequestResult::kHttpStatus, refusal_text(outcome.answer));
  }
  if (!outcome.answer.body.empty()) fail(RequestResult::kMalformed, "the answer is no event stream");
  if (!done_) fail(RequestResult::kCutStream, "the stream ended without [DONE]");
  if (record_.output_tokens == 0) record_.output_tokens = static_cast<std::uint32_t>(record_.pieces_s.size());
  if (record_.pieces_s.empty() && first_event_s_) record_.pieces_s.push_back(*first_event_s_);
  if (record_.output_tokens == 0 || record_.pieces_s.empty()) fail(RequestResult::kNoOutput, "the answer has no token");
  return std::move(record_);
}

}  // namespace troupe::cluster
