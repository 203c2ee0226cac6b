#pragma once

#include <cstdint>
#include <ctime>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/model/config.h"
#include "runtime/text/chat_template.h"
#include "runtime/text/tokenizer.h"

namespace troupe {

// What the gateway knows of the model it serves. Constant once made; read by all of its threads.
struct ServedModel {
  std::string name;
  std::uint32_t vocab_size = 0;
  std::uint32_t max_model_len = 0;  // prompt and answer together
  std::vector<std::uint32_t> eos_token_ids;
  model::SamplingDefaults sampling;  // where a request does not say
  std::time_t created = 0;

  std::shared_ptr<const text::Tokenizer> tokenizer;  // null: only token-id prompts
  // The template, or why there is none; chat requests are refused with that reason.
  Result<text::ChatTemplate> chat_template = not_found("the model has no chat template; use /v1/completions");

  // The bytes of one token as text: what "logprobs" calls it. Bytes that are no UTF-8 are written bytes:\xNN, and
  // without a tokenizer it is token_id:N.
  std::string token_name(std::uint32_t token) const;
  std::string token_bytes(std::uint32_t token) const;
};

// Reads tokenizer and template of a model directory or a GGUF file into `model`. A model without a tokenizer is fine;
// one whose tokenizer cannot be read is an error.
Result<void> load_text_parts(const std::filesystem::path& path, const Limits& limits, ServedModel& model);

}  // namespace troupe
