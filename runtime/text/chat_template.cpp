#include "runtime/text/chat_template.h"

#include <vector>

#include "runtime/base/log.h"
#include "runtime/text/jinja_outline.h"
#include "runtime/text/json_node.h"

namespace troupe::text {
namespace {

constexpr std::string_view kRemedy = "the model can still be used through /v1/completions";
constexpr std::string_view kStart = "<|im_start|>";
constexpr std::string_view kEnd = "<|im_end|>\n";

using Outline = std::vector<JinjaStep>;

JinjaStep statement(std::string text) { return {JinjaStep::Kind::kStatement, std::move(text)}; }
JinjaStep literal(std::string text) { return {JinjaStep::Kind::kLiteral, std::move(text)}; }
JinjaStep expression(std::string text) { return {JinjaStep::Kind::kExpression, std::move(text)}; }

void append(Outline& outline, const Outline& more) { outline.insert(outline.end(), more.begin(), more.end()); }

// Where published ChatML templates differ.
struct Spelling {
  enum class DefaultSystem { kNone, kInLoop, kBeforeLoop };

  bool declares_flag = false;  // sets add_generation_prompt to false when it is not given
  DefaultSystem default_system = DefaultSystem::kNone;
};

Outline chatml(const Spelling& spelling, const std::string& default_system) {
  using DefaultSystem = Spelling::DefaultSystem;
  Outline outline;
  if (spelling.declares_flag) {
    append(outline, {statement("if not add_generation_prompt is defined"),
                     statement("set add_generation_prompt = false"), statement("endif")});
  }
  const auto say_default = [&](const std::string& condition) {
    append(outline, {statement("if " + condition), literal(default_system), statement("endif")});
  };
  if (spelling.default_system == DefaultSystem::kBeforeLoop) say_default("messages [ 0 ] . role != 'system'");
  append(outline, {statement("for message in messages")});
  if (spelling.default_system == DefaultSystem::kInLoop) {
    say_default("loop . first and messages [ 0 ] . role != 'system'");
  }
  append(outline,
         {literal(std::string(kStart)), expression("message . role"), literal("\n"), expression("message . content"),
          literal(std::string(kEnd)), statement("endfor"), statement("if add_generation_prompt"),
          literal(std::string(kStart) + "assistant\n"), statement("endif")});
  return outline;
}

// The default system message, when `text` is the whole of one.
std::optional<std::string> system_message(std::string_view text) {
  const std::string front = std::string(kStart) + "system\n";
  if (!text.starts_with(front) || !text.ends_with(kEnd) || text.size() < front.size() + kEnd.size()) {
    return std::nullopt;
  }
  const std::string_view content = text.substr(front.size(), text.size() - front.size() - kEnd.size());
  if (content.find("<|im_") != std::string_view::npos) return std::nullopt;
  return std::string(content);
}

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

}  // namespace

Result<ChatTemplate> ChatTemplate::load(const std::filesystem::path& model_directory, const Limits& limits) {
  const auto jinja_path = model_directory / "chat_template.jinja";
  auto jinja = read_text_file(jinja_path, limits);
  if (jinja) return parse(*jinja, jinja_path.string());
  if (jinja.error().code != ErrorCode::kNotFound) return std::move(jinja).error();

  const auto config_path = model_directory / "tokenizer_config.json";
  auto config_text = read_text_file(config_path, limits);
  if (!config_text && config_text.error().code != ErrorCode::kNotFound) return std::move(config_text).error();
  std::optional<std::string> source;
  if (config_text) {
    TROUPE_ASSIGN_OR_RETURN(const auto config, JsonDocument::parse(*config_text, config_path.string(), limits));
    TROUPE_ASSIGN_OR_RETURN(source, configured_template(JsonNode(config)));
  }
  if (!source) {
    return not_found(model_directory.string() +
                     ": no chat template, neither chat_template.jinja nor chat_template in tokenizer_config.json; " +
                     std::string(kRemedy));
  }
  return parse(*source, config_path.string() + ": chat_template");
}

Result<ChatTemplate> ChatTemplate::parse(std::string_view jinja, std::string_view origin) {
  using DefaultSystem = Spelling::DefaultSystem;
  auto outline = outline_jinja(jinja);
  if (!outline) return std::move(outline).error().within(origin);
  for (const bool declares_flag : {false, true}) {
    if (*outline == chatml({declares_flag, DefaultSystem::kNone}, "")) return ChatTemplate();
    for (const DefaultSystem place : {DefaultSystem::kInLoop, DefaultSystem::kBeforeLoop}) {
      for (const JinjaStep& step : *outline) {
        if (step.kind != JinjaStep::Kind::kLiteral) continue;
        const auto content = system_message(step.text);
        if (content && *outline == chatml({declares_flag, place}, step.text)) {
          ChatTemplate chat;
          chat.default_system_ = *content;
          return chat;
        }
      }
    }
  }
  return unsupported(std::string(origin) + ": this chat template is not known, only ChatML is; " +
                     std::string(kRemedy));
}

Result<std::string> ChatTemplate::render(std::span<const ChatMessage> messages, bool add_generation_prompt) const {
  if (messages.empty()) return invalid_argument("there must be at least one message", "messages");
  std::string prompt;
  const auto say = [&](std::string_view role, std::string_view content) {
    prompt += kStart;
    prompt += role;
    prompt += '\n';
    prompt += content;
    prompt += kEnd;
  };
  if (default_system_ && messages[0].role != "system") say("system", *default_system_);
  for (std::size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    // A role is written into the prompt as it is, so that any other word could forge one.
    if (message.role != "system" && message.role != "user" && message.role != "assistant") {
      return invalid_argument("the role must be system, user or assistant, not \"" + printable(message.role) + "\"",
                              "messages[" + std::to_string(i) + "].role");
    }
    say(message.role, message.content);
  }
  if (add_generation_prompt) {
    prompt += kStart;
    prompt += "assistant\n";
  }
  return prompt;
}

}  // namespace troupe::text
