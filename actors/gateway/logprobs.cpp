#include "actors/gateway/logprobs.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <cmath>
#include <utility>

namespace troupe {
namespace {

namespace json = boost::json;

// JSON knows neither infinity nor NaN; OpenAI writes -9999 for a probability of zero.
json::value logprob_value(float logprob) {
  if (std::isnan(logprob)) return nullptr;
  return std::isinf(logprob) ? -9999.0 : static_cast<double>(logprob);
}

// Characters that begin in `bytes`, which may start or end inside one.
std::size_t characters_begun(std::string_view bytes) {
  return static_cast<std::size_t>(
      std::count_if(bytes.begin(), bytes.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

json::object chat_token(const ServedModel& model, schema::TokenLogprob::Reader token) {
  json::value bytes;
  if (model.tokenizer) {
    json::array list;
    for (const char c : model.token_bytes(token.getToken())) list.emplace_back(static_cast<unsigned char>(c));
    bytes = std::move(list);
  }
  return {{"token", model.token_name(token.getToken())},
          {"logprob", logprob_value(token.getLogprob())},
          {"bytes", std::move(bytes)}};
}

}  // namespace

void ChatLogprobs::add(const ServedModel& model, schema::TokenLogprobs::Reader token) {
  json::object entry = chat_token(model, token.getChosen());
  json::array top;
  for (const auto alternative : token.getTop()) top.push_back(chat_token(model, alternative));
  entry["top_logprobs"] = std::move(top);
  content_.push_back(std::move(entry));
}

json::object ChatLogprobs::take() { return {{"content", std::exchange(content_, {})}, {"refusal", nullptr}}; }

void CompletionLogprobs::add_token(const ServedModel& model, std::uint32_t token) {
  tokens_.emplace_back(model.token_name(token));
  text_offset_.emplace_back(offset_characters_);
  const bool shown = model.tokenizer && !model.tokenizer->is_special(token);
  if (shown) offset_characters_ += characters_begun(model.token_bytes(token));
}

void CompletionLogprobs::add_first(const ServedModel& model, std::uint32_t token) {
  add_token(model, token);
  token_logprobs_.emplace_back(nullptr);
  top_logprobs_.emplace_back(nullptr);
}

void CompletionLogprobs::add(const ServedModel& model, schema::TokenLogprobs::Reader token) {
  add_token(model, token.getChosen().getToken());
  token_logprobs_.push_back(logprob_value(token.getChosen().getLogprob()));
  json::object top;
  // emplace keeps the first of two tokens with one name, which is the more probable.
  for (const auto alternative : token.getTop()) {
    top.emplace(model.token_name(alternative.getToken()), logprob_value(alternative.getLogprob()));
  }
  top.emplace(model.token_name(token.getChosen().getToken()), logprob_value(token.getChosen().getLogprob()));
  top_logprobs_.push_back(std::move(top));
}

json::object CompletionLogprobs::take() {
  return {{"tokens", std::exchange(tokens_, {})},
          {"token_logprobs", std::exchange(token_logprobs_, {})},
          {"top_logprobs", std::exchange(top_logprobs_, {})},
          {"text_offset", std::exchange(text_offset_, {})}};
}

}  // namespace troupe
