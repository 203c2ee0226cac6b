#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "actors/gateway/api_error.h"
#include "actors/gateway/generation_options.h"

namespace troupe {

enum class Endpoint { kChat, kCompletions };

struct Prompt {
  std::vector<std::uint32_t> tokens;
  std::string text;              // what `echo` gives back; "" without a tokenizer
  std::uint32_t max_tokens = 0;  // set by fit_lengths
};

// One HTTP request as token lists: what is asked of the scheduler, and how the answer is to look.
struct RequestPlan {
  Endpoint endpoint = Endpoint::kCompletions;
  GenerationOptions options;
  bool echo = false;
  std::vector<Prompt> prompts;
  std::uint64_t tenant = 0;  // whose it is

  // The choices of the first prompt come first: choice i answers prompt i / n.
  std::size_t choices() const { return prompts.size() * options.n; }
  const Prompt& prompt_of(std::size_t choice) const { return prompts[choice / options.n]; }
};

// Parse a body, render the chat template and tokenize: as slow as the prompt is long.
Result<RequestPlan> plan_chat(std::string_view body, const ServedModel& model, const Limits& limits);
Result<RequestPlan> plan_completion(std::string_view body, const ServedModel& model, const Limits& limits);

// Sets max_tokens of every prompt: as asked, else 16 for completions and all that is left for chats. The error is
// context_length_exceeded with the numbers.
std::optional<ApiError> fit_lengths(RequestPlan& plan, const ServedModel& model);

// The message for one choice. The choices of a prompt differ in their seeds only, which follow upon each other: their
// prompt is computed once, as its blocks are found in the prefix cache. `deadline_ms`: what is left of the request's
// time, 0 = no end.
fabric::Message<schema::Generate> generate_message(const RequestPlan& plan, std::size_t choice, std::uint64_t request,
                                                   std::uint32_t deadline_ms);

}  // namespace troupe
