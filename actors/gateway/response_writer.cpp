#include "actors/gateway/response_writer.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/serialize.hpp>
#include <numeric>
#include <optional>
#include <utility>

#include "actors/gateway/logprobs.h"
#include "actors/gateway/stop_matcher.h"
#include "runtime/base/log.h"
#include "runtime/text/stream_decoder.h"

namespace troupe {
namespace {

namespace json = boost::json;

constexpr std::size_t kContextTokens = 4;

json::array id_list(const std::vector<std::uint32_t>& ids) { return json::array(ids.begin(), ids.end()); }

json::value nullable(const char* text) {
  if (!text) return nullptr;
  return json::string(text);
}

}  // namespace

// One choice. `text`, `tokens` and the logprobs are what has not been sent yet: of the last Delta in a stream,
// everything otherwise.
struct ResponseWriter::Choice {
  explicit Choice(std::vector<std::string> stops) : stop(std::move(stops)) {}

  std::optional<text::StreamDecoder> decoder;
  StopMatcher stop;
  std::string text;
  std::vector<std::uint32_t> tokens;
  ChatLogprobs chat_logprobs;
  CompletionLogprobs completion_logprobs;
  std::size_t new_logprobs = 0;
  std::uint64_t generated = 0;
  const char* finish_reason = nullptr;
  bool stopped = false;  // by a stop string
  bool begun = false;    // its first chunk is out, or its prompt echoed
};

ResponseWriter::ResponseWriter(std::shared_ptr<const ServedModel> model, RequestPlan plan, std::string id,
                               std::shared_ptr<HttpResponder> responder)
    : model_(std::move(model)),
      plan_(std::move(plan)),
      id_(std::move(id)),
      created_(std::time(nullptr)),
      responder_(std::move(responder)),
      running_(plan_.choices()) {
  for (std::size_t i = 0; i < plan_.choices(); ++i) {
    auto& choice = choices_.emplace_back(std::make_unique<Choice>(plan_.options.stop));
    const Prompt& prompt = plan_.prompt_of(i);
    if (model_->tokenizer) {
      // The answer continues the prompt: a decoder that begins with it would strip the first word's space, as at the
      // start of a text.
      choice->decoder.emplace(model_->tokenizer, true);
      const std::size_t context = std::min(prompt.tokens.size(), kContextTokens);
      for (std::size_t k = prompt.tokens.size() - context; k < prompt.tokens.size(); ++k) {
        choice->decoder->push(prompt.tokens[k]);
      }
    }
    if (!plan_.echo) continue;
    choice->text = prompt.text;
    if (plan_.options.logprobs) {
      choice->completion_logprobs.add_first(*model_, prompt.tokens.front());
      choice->new_logprobs = 1;
    }
  }
}

ResponseWriter::~ResponseWriter() = default;

std::size_t ResponseWriter::choices() const { return choices_.size(); }

std::uint64_t ResponseWriter::prompt_tokens() const {
  return std::accumulate(plan_.prompts.begin(), plan_.prompts.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const Prompt& prompt) { return sum + prompt.tokens.size(); });
}

std::uint64_t ResponseWriter::completion_tokens() const {
  return std::accumulate(choices_.begin(), choices_.end(), std::uint64_t{0},
                         [](std::uint64_t sum, const auto& choice) { return sum + choice->generated; });
}

ChoiceState ResponseWriter::accept(std::size_t index, schema::Delta::Reader delta) {
  Choice& choice = *choices_[index];
  if (plan_.echo && plan_.options.logprobs) {
    for (const auto token : delta.getPromptLogprobs()) choice.completion_logprobs.add(*model_, token);
    choice.new_logprobs += delta.getPromptLogprobs().size();
  }
  // A prompt counts once, however many choices it has, and so do those of its tokens that were there before.
  if (index % plan_.options.n == 0) cached_tokens_ += delta.getCachedTokens();
  guesses_ += delta.getGuesses();
  accepted_guesses_ += std::min(delta.getAcceptedGuesses(), delta.getGuesses());
  read_tokens(choice, delta);
  const schema::FinishReason finish = delta.getFinish();
  if (!choice.stopped && finish != schema::FinishReason::NONE) {
    choice.finish_reason = finish == schema::FinishReason::STOP ? "stop" : "length";
    // What a prompt that ends within a character left undecoded is no part of an answer without tokens.
    const std::string rest = choice.decoder && choice.generated > 0 ? choice.decoder->finish() : std::string();
    choice.stopped = choice.stop.push(rest, choice.text);
    if (!choice.stopped) choice.stop.finish(choice.text);
  }
  const bool ended = finish != schema::FinishReason::NONE;
  if (choice.stopped) choice.finish_reason = "stop";
  if (choice.finish_reason) --running_;
  if (plan_.options.stream) {
    send_chunks(index);
    if (running_ == 0) end_stream();
  } else if (running_ == 0) {
    send_response();
  }
  if (!choice.finish_reason) return ChoiceState::kRunning;
  return ended ? ChoiceState::kEnded : ChoiceState::kStopped;
}

void ResponseWriter::read_tokens(Choice& choice, schema::Delta::Reader delta) {
  const auto tokens = delta.getTokens();
  const auto logprobs = delta.getLogprobs();
  const bool ends_with_stop_token = delta.getFinish() == schema::FinishReason::STOP;
  for (unsigned i = 0; i < tokens.size() && !choice.stopped; ++i) {
    ++choice.generated;
    if (plan_.options.return_token_ids) choice.tokens.push_back(tokens[i]);
    if (plan_.options.logprobs && i < logprobs.size()) {
      ++choice.new_logprobs;
      if (plan_.endpoint == Endpoint::kChat) {
        choice.chat_logprobs.add(*model_, logprobs[i]);
      } else {
        choice.completion_logprobs.add(*model_, logprobs[i]);
      }
    }
    // The token that ends an answer is counted and listed, but is no part of its text.
    const bool is_stop_token = ends_with_stop_token && i + 1 == tokens.size();
    if (choice.decoder && !is_stop_token) {
      choice.stopped = choice.stop.push(choice.decoder->push(tokens[i]), choice.text);
    }
  }
}

void ResponseWriter::send_chunks(std::size_t index) {
  Choice& choice = *choices_[index];
  const bool chat = plan_.endpoint == Endpoint::kChat;
  const auto chunk = [&](json::object body) {
    body["index"] = index;
    if (!body.contains("logprobs")) body["logprobs"] = nullptr;
    if (!body.contains("finish_reason")) body["finish_reason"] = nullptr;
    if (plan_.options.return_token_ids && !choice.begun) {
      body["prompt_token_ids"] = id_list(plan_.prompt_of(index).tokens);
    }
    choice.begun = true;
    send_event(envelope("[" + json::serialize(body) + "]", plan_.options.include_usage ? "null" : ""));
  };
  if (chat && !choice.begun) chunk({{"delta", {{"role", "assistant"}, {"content", ""}}}});
  const bool has_content = !choice.text.empty() || !choice.tokens.empty() || choice.new_logprobs > 0;
  if (has_content || (choice.finish_reason && !chat)) {
    json::object body;
    std::string text = std::exchange(choice.text, {});
    if (chat) {
      body["delta"] = {{"content", std::move(text)}};
    } else {
      body["text"] = std::move(text);
      body["finish_reason"] = nullable(choice.finish_reason);
    }
    if (choice.new_logprobs > 0) {
      body["logprobs"] = chat ? choice.chat_logprobs.take() : choice.completion_logprobs.take();
      choice.new_logprobs = 0;
    }
    if (plan_.options.return_token_ids) body["token_ids"] = id_list(std::exchange(choice.tokens, {}));
    chunk(std::move(body));
  }
  if (chat && choice.finish_reason) {
    chunk({{"delta", json::object()}, {"finish_reason", nullable(choice.finish_reason)}});
  }
}

void ResponseWriter::end_stream() {
  if (plan_.options.include_usage) send_event(envelope("[]", usage_json()));
  responder_->write("data: [DONE]\n\n");
  responder_->finish();
  complete_ = true;
}

void ResponseWriter::send_response() {
  json::array list;
  for (std::size_t i = 0; i < choices_.size(); ++i) {
    Choice& choice = *choices_[i];
    json::object body{{"index", i}};
    json::value logprobs;
    if (plan_.endpoint == Endpoint::kChat) {
      body["message"] = {{"role", "assistant"}, {"content", std::move(choice.text)}, {"refusal", nullptr}};
      if (plan_.options.logprobs) logprobs = choice.chat_logprobs.take();
    } else {
      body["text"] = std::move(choice.text);
      if (plan_.options.logprobs) logprobs = choice.completion_logprobs.take();
    }
    body["logprobs"] = std::move(logprobs);
    body["finish_reason"] = nullable(choice.finish_reason);
    if (plan_.options.return_token_ids) {
      body["token_ids"] = id_list(choice.tokens);
      body["prompt_token_ids"] = id_list(plan_.prompt_of(i).tokens);
    }
    list.push_back(std::move(body));
  }
  HttpResponse response;
  response.body = envelope(json::serialize(list), usage_json());
  responder_->send(std::move(response));
  complete_ = true;
}

void ResponseWriter::fail(const ApiError& error) {
  if (complete_) return;
  complete_ = true;
  if (!streaming_) return responder_->send(error_response(error));
  responder_->write("data: " + error_json(error) + "\n\n");
  responder_->abort();
}

void ResponseWriter::send_event(const std::string& json) {
  std::string event = "data: " + json + "\n\n";
  if (streaming_) {
    responder_->write(event);
    return;
  }
  streaming_ = true;
  HttpResponse head;
  head.content_type = "text/event-stream; charset=utf-8";
  head.headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
  head.body = std::move(event);
  responder_->begin_stream(std::move(head));
}

std::string ResponseWriter::usage_json() const {
  const std::uint64_t prompt = prompt_tokens();
  const std::uint64_t completion = completion_tokens();
  return fmt::format(
      "{{\"prompt_tokens\":{},\"completion_tokens\":{},\"total_tokens\":{},"
      "\"prompt_tokens_details\":{{\"cached_tokens\":{}}},"
      "\"completion_tokens_details\":{{\"accepted_prediction_tokens\":{},\"rejected_prediction_tokens\":{}}}}}",
      prompt, completion, prompt + completion, cached_tokens_, accepted_guesses_, guesses_ - accepted_guesses_);
}

// The object around the choices, the same for responses and chunks. `choices` and `usage` are JSON; no usage: "".
std::string ResponseWriter::envelope(const std::string& choices, const std::string& usage) const {
  const bool chat = plan_.endpoint == Endpoint::kChat;
  const char* object = !chat ? "text_completion" : plan_.options.stream ? "chat.completion.chunk" : "chat.completion";
  return fmt::format("{{\"id\":\"{}\",\"object\":\"{}\",\"created\":{},\"model\":{},\"choices\":{}{}{}}}", id_, object,
                     created_, json::serialize(json::string(model_->name)), choices,
                     usage.empty() ? "" : ",\"usage\":", usage);
}

}  // namespace troupe
