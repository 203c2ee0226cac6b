#include "actors/gateway/completion_request.h"

#include <boost/json/array.hpp>
#include <limits>

#include "runtime/base/log.h"

namespace troupe {
namespace {

namespace json = boost::json;

Result<TextOrTokens> read_tokens(const json::array& list, const std::string& param, const ServedModel& model) {
  if (list.empty()) return invalid_argument(param + " is empty", param);
  std::vector<std::uint32_t> tokens;
  tokens.reserve(list.size());
  for (std::size_t i = 0; i < list.size(); ++i) {
    TROUPE_ASSIGN_OR_RETURN(const std::uint32_t token,
                            json_token_id(list[i], param + "[" + std::to_string(i) + "]", model));
    tokens.push_back(token);
  }
  return TextOrTokens(std::move(tokens));
}

Result<TextOrTokens> read_text(const json::string& text, const std::string& param, const ServedModel& model) {
  if (!model.tokenizer) {
    return invalid_argument("the model has no tokenizer: a prompt is a list of token ids", param);
  }
  return TextOrTokens(std::string(text));
}

Result<std::vector<TextOrTokens>> read_prompts(JsonFields& fields, const ServedModel& model, const Limits& limits) {
  const json::value* value = fields.find("prompt");
  if (!value) return invalid_argument("prompt is missing", "prompt");
  std::vector<TextOrTokens> prompts;
  if (value->is_string()) {
    TROUPE_ASSIGN_OR_RETURN(auto prompt, read_text(value->get_string(), "prompt", model));
    prompts.push_back(std::move(prompt));
    return prompts;
  }
  const json::array* list = value->if_array();
  if (!list) return invalid_argument("prompt is neither a string nor a list", "prompt");
  if (list->empty()) return invalid_argument("prompt is empty", "prompt");
  if (list->front().is_number()) {
    TROUPE_ASSIGN_OR_RETURN(auto prompt, read_tokens(*list, "prompt", model));
    prompts.push_back(std::move(prompt));
    return prompts;
  }
  if (list->size() > limits.prompts_per_request) {
    return invalid_argument(fmt::format("prompt has {} prompts, more than the limit prompts_per_request of {}",
                                        list->size(), limits.prompts_per_request),
                            "prompt");
  }
  const bool texts = list->front().is_string();
  for (std::size_t i = 0; i < list->size(); ++i) {
    const json::value& item = (*list)[i];
    const std::string param = "prompt[" + std::to_string(i) + "]";
    if (texts ? !item.is_string() : !item.is_array()) {
      return invalid_argument(param + (texts ? " is not a string like the first prompt"
                                             : " is not a list of token ids (prompts are all text or all ids)"),
                              param);
    }
    TROUPE_ASSIGN_OR_RETURN(
        auto prompt, texts ? read_text(item.get_string(), param, model) : read_tokens(item.get_array(), param, model));
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

}  // namespace

Result<CompletionRequest> parse_completion_request(std::string_view body, const ServedModel& model,
                                                   const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(const json::object object, parse_json_object(body, limits));
  JsonFields fields(object);
  CompletionRequest request;
  TROUPE_ASSIGN_OR_RETURN(request.prompts, read_prompts(fields, model, limits));
  TROUPE_ASSIGN_OR_RETURN(const auto echo, fields.boolean("echo"));
  request.echo = echo.value_or(false);
  TROUPE_RETURN_IF_ERROR(fields.refuse({"suffix"}));
  TROUPE_ASSIGN_OR_RETURN(const auto logprobs,
                          fields.integer("logprobs", 0, static_cast<std::int64_t>(limits.top_logprobs)));
  TROUPE_ASSIGN_OR_RETURN(const auto max_tokens,
                          fields.integer("max_tokens", 0, std::numeric_limits<std::int32_t>::max()));
  if (max_tokens == 0 && !request.echo) {
    return invalid_argument("max_tokens is 0, which only makes sense with echo: true", "max_tokens");
  }
  std::optional<std::uint32_t> wanted;
  if (max_tokens) wanted = static_cast<std::uint32_t>(*max_tokens);
  const LogprobOptions logprob_options{logprobs.has_value(), static_cast<std::uint32_t>(logprobs.value_or(0))};
  TROUPE_ASSIGN_OR_RETURN(request.options, read_generation_options(fields, model, limits, logprob_options, wanted));
  return request;
}

}  // namespace troupe
