#pragma once

#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "actors/gateway/json_fields.h"
#include "actors/gateway/served_model.h"
#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/fabric/message.h"
#include "schema/generate.capnp.h"

namespace troupe {

// What chat and completion requests have in common.
struct GenerationOptions {
  std::string model;
  std::optional<std::uint32_t> max_tokens;
  std::uint32_t n = 1;  // choices of each prompt
  std::vector<std::string> stop;
  bool stream = false;
  bool include_usage = false;
  bool return_token_ids = false;
  bool logprobs = false;
  std::uint32_t top_logprobs = 0;
  std::optional<std::uint32_t> timeout_ms;  // from the request's arrival to the end of its answer

  // The part that goes to the scheduler as it is: stop tokens, minTokens, sampling, cacheSalt, priority and
  // noSpeculation, without `request`, `tokens`, `maxTokens`, `promptLogprobs`, and whose it is and by when.
  fabric::Message<schema::Generate> blueprint;

  std::vector<std::string> unknown_fields;
};

// Logprobs are spelt differently by the two endpoints, so their parsers read them first.
struct LogprobOptions {
  bool logprobs = false;
  std::uint32_t top_logprobs = 0;
};

// Reads the common fields. `max_tokens` has been read by the caller. Ids are checked against the model's vocabulary;
// errors carry the exact param. A request without a seed gets a random one.
Result<GenerationOptions> read_generation_options(JsonFields& fields, const ServedModel& model, const Limits& limits,
                                                  LogprobOptions logprobs, std::optional<std::uint32_t> max_tokens);

// A token id of the model.
Result<std::uint32_t> json_token_id(const boost::json::value& value, const std::string& param,
                                    const ServedModel& model);

}  // namespace troupe
