#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"

namespace troupe::text {

struct ChatMessage {
  std::string role;  // "system", "user" or "assistant"
  std::string content;
};

// How a conversation becomes one prompt. Knows ChatML in its published spellings; a template it does not recognise
// is an error, since a wrong prompt would only show as bad answers. A plain value, thread-safe.
class ChatTemplate {
 public:
  // Finds the template of a model directory: chat_template.jinja, else `chat_template` of tokenizer_config.json.
  // kNotFound when the model has none, kUnsupported (naming the file) when it is not a known one; in both cases the
  // model can still be used through /v1/completions.
  static Result<ChatTemplate> load(const std::filesystem::path& model_directory, const Limits& limits);

  // Recognises a Jinja source. `origin` is what error messages call it.
  static Result<ChatTemplate> parse(std::string_view jinja, std::string_view origin);

  // The prompt. Errors are kInvalidArgument with a param such as "messages[2].role".
  Result<std::string> render(std::span<const ChatMessage> messages, bool add_generation_prompt) const;

 private:
  ChatTemplate() = default;

  std::optional<std::string> default_system_;  // said when the conversation does not start with a system message
};

}  // namespace troupe::text
