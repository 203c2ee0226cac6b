#pragma once

#include <chrono>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/text/jinja/template.h"

namespace troupe::text {

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

struct ChatOptions {
  bool add_generation_prompt = true;
  jinja::Dict arguments;  // further names that the template may know, such as enable_thinking
  std::chrono::system_clock::time_point now = std::chrono::system_clock::now();  // for templates that name the date
};

// How a conversation becomes one prompt: the model's own Jinja template (runtime/text/jinja), given what Hugging Face's
// transformers give it: messages, add_generation_prompt, the special tokens by name, and tools and documents as none.
// A plain value, thread-safe.
class ChatTemplate {
 public:
  // Finds the template of a model directory: chat_template.jinja, else `chat_template` of tokenizer_config.json, and
  // the special tokens of the latter (bos_token, ...). kNotFound when the model has none; errors of parse(). In both
  // cases the model can still be used through /v1/completions.
  static Result<ChatTemplate> load(const std::filesystem::path& model_directory, const Limits& limits);

  // `origin` is what error messages call the source; special_tokens: texts by name. Errors: of jinja::Template::parse,
  // with the origin.
  static Result<ChatTemplate> parse(std::string_view source, std::string_view origin, jinja::Dict special_tokens = {});

  // The prompt. Errors: kInvalidArgument with a param such as "messages[2].role", or what the template itself refuses
  // ("messages"); kUnsupported when it needs what there is not, or makes nothing of the messages.
  Result<std::string> render(std::span<const ChatMessage> messages, const ChatOptions& options) const;

 private:
  ChatTemplate(jinja::Template source, std::string origin, jinja::Dict special_tokens)
      : template_(std::move(source)), origin_(std::move(origin)), special_tokens_(std::move(special_tokens)) {}

  jinja::Template template_;
  std::string origin_;
  jinja::Dict special_tokens_;
};

}  // namespace troupe::text
