#include "runtime/text/chat_template.h"

#include <fmt/format.h>

#include <optional>
#include <utility>
#include <vector>

#include "runtime/base/log.h"
#include "runtime/text/json_node.h"
#include "runtime/text/utf8.h"

namespace troupe::text {
namespace {

constexpr std::string_view kRemedy = "the model can still be used through /v1/completions";

// The template of tokenizer_config.json: one source, or a list of named ones of which "default" is for chat.
Result<std::optional<std::string>> configured_template(const JsonNode& config) {
  TROUPE_ASSIGN_OR_RETURN(const auto node, config.find("chat_template"));
  if (!node) return std::optional<std::string>();
  if (node->is_string()) {
    TROUPE_ASSIGN_OR_RETURN(const auto source, node->string());
    return std::optional(std::string(source));
  }
  TROUPE_ASSIGN_OR_RETURN(const auto entries, node->elements());
  for (const JsonNode& entry : entries) {
    TROUPE_ASSIGN_OR_RETURN(const auto name, entry.string_or("name", ""));
    if (name != "default") continue;
    TROUPE_ASSIGN_OR_RETURN(const auto source_node, entry.at("template"));
    TROUPE_ASSIGN_OR_RETURN(const auto source, source_node.string());
    return std::optional(std::string(source));
  }
  return node->corrupt("has no template named \"default\"; " + std::string(kRemedy));
}

// "bos_token": "<s>", or {"content": "<s>", ...}.
Result<jinja::Dict> special_tokens_of(const JsonNode& config) {
  jinja::Dict tokens;
  TROUPE_ASSIGN_OR_RETURN(const auto members, config.members());
  for (const auto& [name, node] : members) {
    if (!name.ends_with("_token")) continue;
    if (node.is_string()) {
      TROUPE_ASSIGN_OR_RETURN(const auto text, node.string());
      jinja::assign(tokens, name, jinja::Value(text));
    } else if (node.is_object()) {
      TROUPE_ASSIGN_OR_RETURN(const auto text, node.string_or("content", ""));
      jinja::assign(tokens, name, jinja::Value(text));
    }
  }
  return tokens;
}

Result<jinja::Value> values_of(std::span<const ChatMessage> messages) {
  jinja::List values;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    const std::string param = "messages[" + std::to_string(i) + "]";
    // A role is written into the prompt as it is, so that any other word could forge one.
    if (message.role != "system" && message.role != "user" && message.role != "assistant") {
      return invalid_argument("the role must be system, user or assistant, not \"" + printable(message.role) + "\"",
                              param + ".role");
    }
    if (invalid_utf8_offset(message.content)) return invalid_argument("the content is not UTF-8", param + ".content");
    TROUPE_ASSIGN_OR_RETURN(jinja::Value value, jinja::Value::dict({{"role", jinja::Value(message.role)},
                                                                    {"content", jinja::Value(message.content)}}));
    values.push_back(std::move(value));
  }
  return jinja::Value::list(std::move(values));
}

}  // namespace

Result<ChatTemplate> ChatTemplate::load(const std::filesystem::path& model_directory, const Limits& limits) {
  const auto config_path = model_directory / "tokenizer_config.json";
  auto config_text = read_text_file(config_path, limits);
  if (!config_text && config_text.error().code != ErrorCode::kNotFound) return std::move(config_text).error();
  std::optional<std::string> source;
  std::string origin = config_path.string() + ": chat_template";
  jinja::Dict special_tokens;
  if (config_text) {
    TROUPE_ASSIGN_OR_RETURN(const auto config, JsonDocument::parse(*config_text, config_path.string(), limits));
    TROUPE_ASSIGN_OR_RETURN(special_tokens, special_tokens_of(JsonNode(config)));
    TROUPE_ASSIGN_OR_RETURN(source, configured_template(JsonNode(config)));
  }
  const auto jinja_path = model_directory / "chat_template.jinja";
  auto jinja = read_text_file(jinja_path, limits);
  if (!jinja && jinja.error().code != ErrorCode::kNotFound) return std::move(jinja).error();
  if (jinja) {
    source = std::move(jinja).value();
    origin = jinja_path.string();
  }
  if (!source) {
    return not_found(model_directory.string() +
                     ": no chat template, neither chat_template.jinja nor chat_template in tokenizer_config.json; " +
                     std::string(kRemedy));
  }
  return parse(*source, origin, std::move(special_tokens));
}

Result<ChatTemplate> ChatTemplate::parse(std::string_view source, std::string_view origin, jinja::Dict special_tokens) {
  auto parsed = jinja::Template::parse(source);
  if (!parsed) {
    Error error = std::move(parsed).error().within(origin);
    error.message += fmt::format("; {}", kRemedy);
    return error;
  }
  return ChatTemplate(std::move(parsed).value(), std::string(origin), std::move(special_tokens));
}

Result<std::string> ChatTemplate::render(std::span<const ChatMessage> messages, const ChatOptions& options) const {
  if (messages.empty()) return invalid_argument("there must be at least one message", "messages");
  TROUPE_ASSIGN_OR_RETURN(jinja::Value values, values_of(messages));
  jinja::Dict globals = special_tokens_;
  jinja::assign(globals, "tools", jinja::None());
  jinja::assign(globals, "documents", jinja::None());
  for (const auto& [name, value] : options.arguments) jinja::assign(globals, name, value);
  jinja::assign(globals, "messages", std::move(values));
  jinja::assign(globals, "add_generation_prompt", jinja::Value(options.add_generation_prompt));
  auto prompt = template_.render(std::move(globals), options.now);
  if (!prompt) {
    Error error = std::move(prompt).error();
    if (error.code != ErrorCode::kInvalidArgument) error = std::move(error).within(origin_);
    error.param = "messages";
    return error;
  }
  if (prompt->empty()) return unsupported(origin_ + ": the template makes nothing of these messages", "messages");
  return prompt;
}

}  // namespace troupe::text
