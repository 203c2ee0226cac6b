#pragma once

#include <string_view>
#include <vector>

#include "actors/gateway/generation_options.h"
#include "runtime/text/chat_template.h"

namespace troupe {

// The body of POST /v1/chat/completions.
struct ChatRequest {
  GenerationOptions options;
  std::vector<text::ChatMessage> messages;
  text::jinja::Dict template_arguments;
};

// Errors carry the param at fault, such as "messages[1].content".
Result<ChatRequest> parse_chat_request(std::string_view body, const ServedModel& model, const Limits& limits);

}  // namespace troupe
