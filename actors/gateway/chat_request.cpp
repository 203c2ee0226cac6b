#include "actors/gateway/chat_request.h"

#include <boost/json/array.hpp>
#include <limits>

#include "actors/gateway/template_arguments.h"

namespace troupe {
namespace {

namespace json = boost::json;

// A string, or a list of {"type": "text", "text": ...} parts, which are joined.
Result<std::string> read_content(JsonFields& message, std::vector<std::string>& unknown) {
  const json::value* value = message.find("content");
  const std::string param = message.param("content");
  if (!value) return invalid_argument(param + " is missing", param);
  if (value->is_string()) return std::string(value->get_string());
  const json::array* parts = value->if_array();
  if (!parts || parts->empty()) {
    return invalid_argument(param + " is neither a string nor a list of text parts", param);
  }
  std::string content;
  for (std::size_t i = 0; i < parts->size(); ++i) {
    const std::string place = param + "[" + std::to_string(i) + "]";
    const json::object* object = (*parts)[i].if_object();
    if (!object) return invalid_argument(place + " is not an object", place);
    JsonFields part(*object, place + ".");
    TROUPE_ASSIGN_OR_RETURN(const auto type, part.string("type"));
    if (!type) return invalid_argument(place + ".type is missing", place + ".type");
    if (*type != "text")
      return unsupported(place + ".type is not \"text\": this server reads text only", place + ".type");
    TROUPE_ASSIGN_OR_RETURN(const auto text, part.string("text"));
    if (!text) return invalid_argument(place + ".text is missing", place + ".text");
    content += *text;
    for (std::string& name : part.unknown()) unknown.push_back(std::move(name));
  }
  return content;
}

Result<std::vector<text::ChatMessage>> read_messages(JsonFields& fields, std::vector<std::string>& unknown) {
  const json::value* value = fields.find("messages");
  if (!value) return invalid_argument("messages is missing", "messages");
  const json::array* list = value->if_array();
  if (!list) return invalid_argument("messages is not a list", "messages");
  if (list->empty()) return invalid_argument("messages is empty", "messages");
  std::vector<text::ChatMessage> messages;
  messages.reserve(list->size());
  for (std::size_t i = 0; i < list->size(); ++i) {
    const std::string place = "messages[" + std::to_string(i) + "]";
    const json::object* object = (*list)[i].if_object();
    if (!object) return invalid_argument(place + " is not an object", place);
    JsonFields message(*object, place + ".");
    TROUPE_ASSIGN_OR_RETURN(auto role, message.string("role"));
    if (!role) return invalid_argument(place + ".role is missing", place + ".role");
    // OpenAI's newer name for the same thing.
    if (*role == "developer") role = "system";
    TROUPE_RETURN_IF_ERROR(message.refuse({"tool_calls", "function_call", "tool_call_id", "audio", "refusal"}));
    TROUPE_ASSIGN_OR_RETURN(auto content, read_content(message, unknown));
    messages.push_back({*std::move(role), std::move(content)});
    for (std::string& name : message.unknown()) unknown.push_back(std::move(name));
  }
  return messages;
}

Result<std::optional<std::uint32_t>> read_max_tokens(JsonFields& fields) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  TROUPE_ASSIGN_OR_RETURN(const auto older, fields.integer("max_tokens", 1, kMost));
  TROUPE_ASSIGN_OR_RETURN(const auto newer, fields.integer("max_completion_tokens", 1, kMost));
  if (older && newer && *older != *newer) {
    return invalid_argument("max_tokens and max_completion_tokens differ; give one of them", "max_tokens");
  }
  const auto either = newer ? newer : older;
  if (!either) return std::optional<std::uint32_t>();
  return std::optional<std::uint32_t>(static_cast<std::uint32_t>(*either));
}

Result<LogprobOptions> read_logprobs(JsonFields& fields, const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(const auto wanted, fields.boolean("logprobs"));
  TROUPE_ASSIGN_OR_RETURN(const auto top,
                          fields.integer("top_logprobs", 0, static_cast<std::int64_t>(limits.top_logprobs)));
  if (top.value_or(0) > 0 && !wanted.value_or(false)) {
    return invalid_argument("top_logprobs needs logprobs: true", "top_logprobs");
  }
  return LogprobOptions{wanted.value_or(false), static_cast<std::uint32_t>(top.value_or(0))};
}

}  // namespace

Result<ChatRequest> parse_chat_request(std::string_view body, const ServedModel& model, const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(const json::object object, parse_json_object(body, limits));
  JsonFields fields(object);
  ChatRequest request;
  std::vector<std::string> unknown;
  TROUPE_ASSIGN_OR_RETURN(request.messages, read_messages(fields, unknown));
  TROUPE_RETURN_IF_ERROR(fields.refuse({"tools", "functions", "audio", "web_search_options", "continue_final_message",
                                        "chat_template", "documents", "echo"}));
  TROUPE_ASSIGN_OR_RETURN(request.template_arguments, read_template_arguments(fields));
  TROUPE_RETURN_IF_ERROR(fields.require("add_generation_prompt", true));
  TROUPE_RETURN_IF_ERROR(fields.require("modalities", json::array{"text"}));
  // Without tools, "auto" asks for the same as "none".
  for (const std::string_view choice : {"tool_choice", "function_call"}) {
    const json::value* value = fields.find(choice);
    if (value && *value != "auto") TROUPE_RETURN_IF_ERROR(fields.require(choice, "none"));
  }
  fields.ignore({"parallel_tool_calls"});
  TROUPE_ASSIGN_OR_RETURN(const LogprobOptions logprobs, read_logprobs(fields, limits));
  TROUPE_ASSIGN_OR_RETURN(const auto max_tokens, read_max_tokens(fields));
  TROUPE_ASSIGN_OR_RETURN(request.options, read_generation_options(fields, model, limits, logprobs, max_tokens));
  for (std::string& name : unknown) request.options.unknown_fields.push_back(std::move(name));
  return request;
}

}  // namespace troupe
