#include "actors/gateway/request_plan.h"

#include <algorithm>
#include <span>

#include "actors/gateway/chat_request.h"
#include "actors/gateway/completion_request.h"
#include "runtime/base/log.h"

namespace troupe {
namespace {

constexpr std::uint32_t kDefaultCompletionTokens = 16;  // as OpenAI's

Result<std::vector<std::uint32_t>> encode(std::string_view text, bool add_special_tokens, const std::string& param,
                                          const ServedModel& model) {
  auto tokens = model.tokenizer->encode(text, add_special_tokens);
  if (!tokens.ok()) return Error{tokens.error().code, tokens.error().message, param};
  if (tokens->empty()) return invalid_argument(param + " has no tokens", param);
  // A tokenizer may know added tokens that the model has no embedding for.
  const std::uint32_t largest = *std::max_element(tokens->begin(), tokens->end());
  if (largest < model.vocab_size) return tokens;
  return invalid_argument(fmt::format("{} has the token {}, which the model's vocabulary of {} does not hold", param,
                                      largest, model.vocab_size),
                          param);
}

Result<Prompt> prompt_of(TextOrTokens given, const std::string& param, bool echo, const ServedModel& model) {
  Prompt prompt;
  if (auto* tokens = std::get_if<std::vector<std::uint32_t>>(&given)) {
    prompt.tokens = std::move(*tokens);
    if (echo && model.tokenizer) prompt.text = model.tokenizer->decode(prompt.tokens, true);
    return prompt;
  }
  prompt.text = std::get<std::string>(std::move(given));
  TROUPE_ASSIGN_OR_RETURN(prompt.tokens, encode(prompt.text, true, param, model));
  // An empty text is a prompt where the tokenizer puts a token before every text.
  if (prompt.tokens.empty()) return invalid_argument(param + " is empty", param);
  return prompt;
}

}  // namespace

Result<RequestPlan> plan_chat(std::string_view body, const ServedModel& model, const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(ChatRequest request, parse_chat_request(body, model, limits));
  if (!model.chat_template.ok()) return unsupported(model.chat_template.error().message, "messages");
  RequestPlan plan;
  plan.endpoint = Endpoint::kChat;
  plan.options = std::move(request.options);
  Prompt prompt;
  text::ChatOptions options;
  options.arguments = std::move(request.template_arguments);
  TROUPE_ASSIGN_OR_RETURN(prompt.text, model.chat_template->render(request.messages, options));
  // The template writes the special tokens itself.
  TROUPE_ASSIGN_OR_RETURN(prompt.tokens, encode(prompt.text, false, "messages", model));
  plan.prompts.push_back(std::move(prompt));
  return plan;
}

Result<RequestPlan> plan_completion(std::string_view body, const ServedModel& model, const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(CompletionRequest request, parse_completion_request(body, model, limits));
  RequestPlan plan;
  plan.endpoint = Endpoint::kCompletions;
  plan.options = std::move(request.options);
  plan.echo = request.echo;
  const bool several = request.prompts.size() > 1;
  for (std::size_t i = 0; i < request.prompts.size(); ++i) {
    const std::string param = several ? "prompt[" + std::to_string(i) + "]" : "prompt";
    TROUPE_ASSIGN_OR_RETURN(Prompt prompt, prompt_of(std::move(request.prompts[i]), param, plan.echo, model));
    plan.prompts.push_back(std::move(prompt));
  }
  return plan;
}

std::optional<ApiError> fit_lengths(RequestPlan& plan, const ServedModel& model) {
  const std::string param = plan.endpoint == Endpoint::kChat ? "messages" : "prompt";
  for (std::size_t i = 0; i < plan.prompts.size(); ++i) {
    Prompt& prompt = plan.prompts[i];
    const std::uint64_t length = prompt.tokens.size();
    const std::uint64_t least = plan.options.max_tokens.value_or(1);
    if (length + least > model.max_model_len) {
      const std::string place = plan.prompts.size() > 1 ? param + "[" + std::to_string(i) + "]" : param;
      const std::string answer =
          plan.options.max_tokens ? fmt::format("{} for the answer (max_tokens)", least) : "at least 1 for the answer";
      return ApiError{400, "invalid_request_error", "context_length_exceeded", place,
                      fmt::format("this model's context length is {} tokens, but the request needs {}: {} in {} and {}",
                                  model.max_model_len, length + least, length, place, answer)};
    }
    const std::uint64_t room = model.max_model_len - length;
    const std::uint64_t usual = plan.endpoint == Endpoint::kChat ? room : kDefaultCompletionTokens;
    prompt.max_tokens = static_cast<std::uint32_t>(plan.options.max_tokens.value_or(std::min(room, usual)));
  }
  return std::nullopt;
}

fabric::Message<schema::Generate> generate_message(const RequestPlan& plan, std::size_t choice, std::uint64_t request,
                                                   std::uint32_t deadline_ms) {
  const Prompt& prompt = plan.prompt_of(choice);
  return fabric::make_message<schema::Generate>([&](schema::Generate::Builder generate) {
    const auto blueprint = plan.options.blueprint.read();
    generate.setRequest(request);
    generate.setTokens({prompt.tokens.data(), prompt.tokens.size()});
    generate.setMaxTokens(prompt.max_tokens);
    generate.setStopTokens(blueprint->getStopTokens());
    generate.setMinTokens(std::min(blueprint->getMinTokens(), prompt.max_tokens));
    generate.setSampling(blueprint->getSampling());
    generate.setCacheSalt(blueprint->getCacheSalt());
    generate.setPriority(blueprint->getPriority());
    generate.setTenant(plan.tenant);
    generate.setDeadlineMs(deadline_ms);
    generate.setSiblings(static_cast<std::uint32_t>(plan.choices() - choice - 1));
    std::uint64_t sibling_tokens = 0;
    for (std::size_t sibling = choice + 1; sibling < plan.choices(); ++sibling) {
      sibling_tokens += plan.prompt_of(sibling).tokens.size();
    }
    generate.setSiblingTokens(sibling_tokens);
    generate.getSampling().setSeed(blueprint->getSampling().getSeed() + choice % plan.options.n);
    generate.setNoSpeculation(blueprint->getNoSpeculation());
    generate.getSampling().setPromptLogprobs(plan.echo && plan.options.logprobs);
  });
}

}  // namespace troupe
