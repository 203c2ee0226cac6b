#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "actors/gateway/generation_options.h"

namespace troupe {

using TextOrTokens = std::variant<std::string, std::vector<std::uint32_t>>;

// The body of POST /v1/completions. Each prompt becomes one choice.
struct CompletionRequest {
  GenerationOptions options;
  std::vector<TextOrTokens> prompts;  // not empty
  bool echo = false;
};

// Errors carry the param at fault, such as "prompt[1][3]".
Result<CompletionRequest> parse_completion_request(std::string_view body, const ServedModel& model,
                                                   const Limits& limits);

}  // namespace troupe
