#include "cluster/bench/request_body.h"

#include <fmt/format.h>

#include <array>
#include <boost/json/serialize.hpp>
#include <iterator>
#include <utility>

namespace troupe::cluster {
namespace {

namespace json = boost::json;

// Common English words, each a single token of most vocabularies.
constexpr std::array<std::string_view, 128> kWords = {
    "the",   "of",    "and",    "to",      "in",     "is",    "that",  "for",   "it",    "as",     "was",  "with",
    "be",    "by",    "on",     "not",     "he",     "his",   "but",   "at",    "are",   "this",   "have", "from",
    "or",    "had",   "an",     "they",    "which",  "one",   "you",   "were",  "all",   "her",    "she",  "there",
    "would", "their", "we",     "him",     "been",   "has",   "when",  "who",   "will",  "no",     "more", "if",
    "out",   "so",    "up",     "said",    "what",   "its",   "about", "than",  "into",  "them",   "can",  "only",
    "other", "time",  "new",    "some",    "could",  "these", "two",   "may",   "first", "then",   "do",   "any",
    "like",  "my",    "now",    "over",    "such",   "our",   "man",   "me",    "even",  "most",   "made", "after",
    "also",  "did",   "many",   "off",     "before", "must",  "well",  "back",  "years", "where",  "much", "your",
    "way",   "down",  "should", "because", "long",   "each",  "just",  "state", "those", "people", "how",  "too",
    "good",  "very",  "make",   "world",   "still",  "see",   "own",   "work",  "men",   "day",    "get",  "here",
    "old",   "life",  "both",   "between", "being",  "under", "three", "never"};

void write_words(std::string& out, const std::vector<std::uint32_t>& prompt) {
  out += '"';
  for (std::size_t i = 0; i < prompt.size(); ++i) {
    if (i > 0) out += ' ';
    out += kWords[prompt[i] % kWords.size()];
  }
  out += '"';
}

void write_ids(std::string& out, const std::vector<std::uint32_t>& prompt) {
  out += '[';
  for (std::size_t i = 0; i < prompt.size(); ++i)
    fmt::format_to(std::back_inserter(out), "{}{}", i > 0 ? "," : "", prompt[i]);
  out += ']';
}

}  // namespace

Result<RequestBody> RequestBody::make(RequestBodyOptions options) {
  if (options.chat && options.prompt_kind == PromptKind::kTokenIds) {
    return invalid_argument("--prompt-kind ids: a chat's messages are text; use words, or --api completions");
  }
  for (const std::string_view key : {"stream", "stream_options"}) {
    if (options.extra.contains(key)) {
      return invalid_argument(fmt::format("--extra: {} is what answers are measured by, and stays as it is", key));
    }
  }
  return RequestBody(std::move(options));
}

RequestBody::RequestBody(RequestBodyOptions options) : options_(std::move(options)) {
  json::object body{{"model", options_.model},
                    {"temperature", options_.temperature},
                    {"stream", true},
                    {"stream_options", {{"include_usage", true}}}};
  if (options_.ignore_eos) body["ignore_eos"] = true;
  for (const auto& [key, value] : options_.extra) body[key] = value;
  constant_ = json::serialize(body);
  constant_.pop_back();
}

std::string RequestBody::write(const PlannedRequest& request) const {
  std::string out = constant_;
  const auto own = [&](std::string_view key) {
    if (options_.extra.contains(key)) return false;
    fmt::format_to(std::back_inserter(out), ",\"{}\":", key);
    return true;
  };
  if (own("max_tokens")) out += std::to_string(request.max_tokens);
  if (own("seed")) out += std::to_string(request.seed);
  if (options_.chat) {
    if (own("messages")) {
      out += "[{\"role\":\"user\",\"content\":";
      write_words(out, request.prompt);
      out += "}]";
    }
  } else if (own("prompt")) {
    if (options_.prompt_kind == PromptKind::kWords) {
      write_words(out, request.prompt);
    } else {
      write_ids(out, request.prompt);
    }
  }
  out += '}';
  return out;
}

}  // namespace troupe::cluster
