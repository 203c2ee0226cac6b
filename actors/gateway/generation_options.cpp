#include "actors/gateway/generation_options.h"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <charconv>
#include <cmath>
#include <limits>
#include <random>
#include <utility>

#include "runtime/base/log.h"
#include "runtime/engine/engine.h"

namespace troupe {
namespace {

namespace json = boost::json;

constexpr double kLargestBias = 100;
constexpr double kSmallestRepetitionPenalty = 0.01;
constexpr double kLargestRepetitionPenalty = 10;

Result<std::vector<std::string>> read_stop(JsonFields& fields, const ServedModel& model, const Limits& limits) {
  const json::value* value = fields.find("stop");
  std::vector<std::string> stops;
  if (!value) return stops;
  const auto add = [&](const json::value& item, const std::string& param) -> Result<void> {
    if (!item.is_string()) return invalid_argument(param + " is not a string", param);
    const auto& text = item.get_string();
    if (text.empty()) return invalid_argument(param + " is empty: it would stop at once", param);
    if (text.size() > limits.stop_string_bytes) {
      return invalid_argument(fmt::format("{} has {} bytes, more than the limit stop_string_bytes of {}", param,
                                          text.size(), limits.stop_string_bytes),
                              param);
    }
    stops.emplace_back(text);
    return {};
  };
  if (const json::array* list = value->if_array()) {
    if (list->size() > limits.stop_strings) {
      return invalid_argument(
          fmt::format("stop has {} strings, more than the limit stop_strings of {}", list->size(), limits.stop_strings),
          "stop");
    }
    for (std::size_t i = 0; i < list->size(); ++i) {
      TROUPE_RETURN_IF_ERROR(add((*list)[i], "stop[" + std::to_string(i) + "]"));
    }
  } else if (value->is_string()) {
    TROUPE_RETURN_IF_ERROR(add(*value, "stop"));
  } else {
    return invalid_argument("stop is neither a string nor a list of strings", "stop");
  }
  if (!stops.empty() && !model.tokenizer) {
    return unsupported("the model has no tokenizer, so there is no text to find a stop string in; use stop_token_ids",
                       "stop");
  }
  return stops;
}

Result<std::vector<std::uint32_t>> read_stop_tokens(JsonFields& fields, const ServedModel& model,
                                                    const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(const auto ignore_eos, fields.boolean("ignore_eos"));
  std::vector<std::uint32_t> tokens;
  if (!ignore_eos.value_or(false)) tokens = model.eos_token_ids;
  const json::value* value = fields.find("stop_token_ids");
  if (!value) return tokens;
  const json::array* list = value->if_array();
  if (!list) return invalid_argument("stop_token_ids is not a list of token ids", "stop_token_ids");
  if (list->size() > limits.stop_tokens) {
    return invalid_argument(fmt::format("stop_token_ids has {} ids, more than the limit stop_tokens of {}",
                                        list->size(), limits.stop_tokens),
                            "stop_token_ids");
  }
  for (std::size_t i = 0; i < list->size(); ++i) {
    TROUPE_ASSIGN_OR_RETURN(const std::uint32_t token,
                            json_token_id((*list)[i], "stop_token_ids[" + std::to_string(i) + "]", model));
    tokens.push_back(token);
  }
  return tokens;
}

Result<void> read_logit_bias(JsonFields& fields, const ServedModel& model, const Limits& limits,
                             schema::Sampling::Builder sampling) {
  const json::value* value = fields.find("logit_bias");
  if (!value) return {};
  const json::object* map = value->if_object();
  if (!map) return invalid_argument("logit_bias is not an object of token id and bias", "logit_bias");
  if (map->size() > limits.logit_bias_entries) {
    return invalid_argument(fmt::format("logit_bias has {} entries, more than the limit logit_bias_entries of {}",
                                        map->size(), limits.logit_bias_entries),
                            "logit_bias");
  }
  auto entries = sampling.initLogitBias(map->size());
  unsigned i = 0;
  for (const auto& [key, bias_value] : *map) {
    const std::string name = printable(key, 24);
    std::uint32_t token = 0;
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), token);
    const bool canonical =
        parsed.ec == std::errc() && parsed.ptr == key.data() + key.size() && std::to_string(token) == key;
    if (!canonical || token >= model.vocab_size) {
      return invalid_argument(
          fmt::format("logit_bias has the key \"{}\", which is no token id of 0..{}", name, model.vocab_size - 1),
          "logit_bias");
    }
    auto bias = json_number(bias_value, "logit_bias." + name, -kLargestBias, kLargestBias);
    if (!bias.ok()) return invalid_argument(bias.error().message, "logit_bias");
    entries[i].setToken(token);
    entries[i].setBias(static_cast<float>(*bias));
    ++i;
  }
  return {};
}

std::uint64_t random_seed() {
  thread_local std::mt19937_64 generator{std::random_device{}()};
  return generator();
}

Result<std::uint64_t> read_seed(JsonFields& fields) {
  const json::value* value = fields.find("seed");
  if (!value) return random_seed();
  if (value->is_uint64()) return value->get_uint64();
  TROUPE_ASSIGN_OR_RETURN(
      const std::int64_t seed,
      json_integer(*value, "seed", std::numeric_limits<std::int64_t>::min(), std::numeric_limits<std::int64_t>::max()));
  return static_cast<std::uint64_t>(seed);
}

Result<void> read_sampling(JsonFields& fields, const ServedModel& model, const Limits& limits,
                           schema::Sampling::Builder sampling) {
  TROUPE_ASSIGN_OR_RETURN(const auto temperature, fields.number("temperature", 0, 2));
  TROUPE_ASSIGN_OR_RETURN(const auto top_p, fields.number("top_p", 0, 1));
  if (top_p && static_cast<float>(*top_p) <= 0) {
    return invalid_argument("top_p is 0, but some token must be left: it is in (0, 1]", "top_p");
  }
  TROUPE_ASSIGN_OR_RETURN(const auto top_k, fields.integer("top_k", -1, std::numeric_limits<std::int32_t>::max()));
  TROUPE_ASSIGN_OR_RETURN(const auto min_p, fields.number("min_p", 0, 1));
  TROUPE_ASSIGN_OR_RETURN(const auto repetition,
                          fields.number("repetition_penalty", kSmallestRepetitionPenalty, kLargestRepetitionPenalty));
  TROUPE_ASSIGN_OR_RETURN(const auto presence, fields.number("presence_penalty", -2, 2));
  TROUPE_ASSIGN_OR_RETURN(const auto frequency, fields.number("frequency_penalty", -2, 2));
  TROUPE_ASSIGN_OR_RETURN(const std::uint64_t seed, read_seed(fields));
  const model::SamplingDefaults& usual = model.sampling;
  sampling.setTemperature(static_cast<float>(temperature.value_or(usual.temperature.value_or(1))));
  sampling.setTopP(static_cast<float>(top_p.value_or(usual.top_p.value_or(1))));
  // -1 and 0 both mean off.
  sampling.setTopK(static_cast<std::uint32_t>(std::max<std::int64_t>(top_k.value_or(usual.top_k.value_or(0)), 0)));
  sampling.setMinP(static_cast<float>(min_p.value_or(usual.min_p.value_or(0))));
  sampling.setRepetitionPenalty(static_cast<float>(repetition.value_or(usual.repetition_penalty.value_or(1))));
  if (presence) sampling.setPresencePenalty(static_cast<float>(*presence));
  if (frequency) sampling.setFrequencyPenalty(static_cast<float>(*frequency));
  sampling.setSeed(seed);
  return read_logit_bias(fields, model, limits, sampling);
}

Result<std::string> read_cache_salt(JsonFields& fields, const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(const auto salt, fields.string("cache_salt"));
  if (salt && salt->size() > limits.cache_salt_bytes) {
    return invalid_argument(fmt::format("cache_salt has {} bytes, more than the limit cache_salt_bytes of {}",
                                        salt->size(), limits.cache_salt_bytes),
                            "cache_salt");
  }
  return salt.value_or("");
}

Result<std::uint32_t> read_n(JsonFields& fields, const Limits& limits) {
  const auto most = static_cast<std::int64_t>(limits.choices_per_prompt);
  TROUPE_ASSIGN_OR_RETURN(const auto n, fields.integer("n", 1, most));
  TROUPE_ASSIGN_OR_RETURN(const auto best_of, fields.integer("best_of", 1, most));
  if (best_of.value_or(n.value_or(1)) != n.value_or(1)) {
    return unsupported("best_of other than n is not supported by this server; ask for n choices and choose", "best_of");
  }
  return static_cast<std::uint32_t>(n.value_or(1));
}

// vLLM's field: smaller runs earlier.
Result<std::int32_t> read_priority(JsonFields& fields) {
  TROUPE_ASSIGN_OR_RETURN(const auto priority,
                          fields.integer("priority", engine::kMostUrgentPriority, engine::kLeastUrgentPriority));
  return static_cast<std::int32_t>(priority.value_or(0));
}

// Seconds, as everything that clients call a timeout.
Result<std::optional<std::uint32_t>> read_timeout_ms(JsonFields& fields) {
  TROUPE_ASSIGN_OR_RETURN(const auto timeout_s, fields.number("timeout", 0.001, engine::kLongestDeadlineMs / 1e3));
  if (!timeout_s) return std::optional<std::uint32_t>();
  return std::optional(static_cast<std::uint32_t>(std::ceil(*timeout_s * 1e3)));
}

Result<void> read_stream(JsonFields& fields, GenerationOptions& options) {
  TROUPE_ASSIGN_OR_RETURN(const auto stream, fields.boolean("stream"));
  options.stream = stream.value_or(false);
  const json::value* value = fields.find("stream_options");
  if (!value) return {};
  if (!value->is_object()) return invalid_argument("stream_options is not an object", "stream_options");
  if (!options.stream) return invalid_argument("stream_options needs stream: true", "stream_options");
  JsonFields inner(value->get_object(), "stream_options.");
  TROUPE_ASSIGN_OR_RETURN(const auto include_usage, inner.boolean("include_usage"));
  options.include_usage = include_usage.value_or(false);
  inner.ignore({"include_obfuscation"});
  for (std::string& name : inner.unknown()) options.unknown_fields.push_back(std::move(name));
  return {};
}

// What other servers understand and this one does not, where to ignore it would change the answer.
Result<void> refuse_what_changes_the_answer(JsonFields& fields) {
  TROUPE_RETURN_IF_ERROR(
      fields.refuse({"use_beam_search", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
                     "structured_outputs", "truncate_prompt_tokens", "prompt_logprobs", "include_stop_str_in_output",
                     "logits_processors", "bad_words", "allowed_token_ids", "prompt_embeds"}));
  TROUPE_RETURN_IF_ERROR(fields.require("skip_special_tokens", true));
  return fields.require("response_format", json::object{{"type", "text"}});
}

}  // namespace

Result<std::uint32_t> json_token_id(const json::value& value, const std::string& param, const ServedModel& model) {
  TROUPE_ASSIGN_OR_RETURN(const std::int64_t token, json_integer(value, param, 0, std::int64_t{model.vocab_size} - 1));
  return static_cast<std::uint32_t>(token);
}

Result<GenerationOptions> read_generation_options(JsonFields& fields, const ServedModel& model, const Limits& limits,
                                                  LogprobOptions logprobs, std::optional<std::uint32_t> max_tokens) {
  GenerationOptions options;
  TROUPE_ASSIGN_OR_RETURN(auto name, fields.string("model"));
  if (!name) return invalid_argument("model is missing; it is \"" + model.name + "\" here", "model");
  options.model = *std::move(name);
  options.max_tokens = max_tokens;
  options.logprobs = logprobs.logprobs;
  options.top_logprobs = logprobs.top_logprobs;
  TROUPE_RETURN_IF_ERROR(refuse_what_changes_the_answer(fields));
  TROUPE_ASSIGN_OR_RETURN(options.n, read_n(fields, limits));
  TROUPE_RETURN_IF_ERROR(read_stream(fields, options));
  TROUPE_ASSIGN_OR_RETURN(options.stop, read_stop(fields, model, limits));
  TROUPE_ASSIGN_OR_RETURN(const auto return_token_ids, fields.boolean("return_token_ids"));
  options.return_token_ids = return_token_ids.value_or(false);

  fabric::MessageBuilder<schema::Generate> blueprint;
  TROUPE_ASSIGN_OR_RETURN(const auto stop_tokens, read_stop_tokens(fields, model, limits));
  blueprint.root().setStopTokens({stop_tokens.data(), stop_tokens.size()});
  TROUPE_ASSIGN_OR_RETURN(const auto min_tokens,
                          fields.integer("min_tokens", 0, std::numeric_limits<std::int32_t>::max()));
  if (min_tokens && max_tokens && *min_tokens > *max_tokens) {
    return invalid_argument(fmt::format("min_tokens is {}, more than max_tokens of {}", *min_tokens, *max_tokens),
                            "min_tokens");
  }
  blueprint.root().setMinTokens(static_cast<std::uint32_t>(min_tokens.value_or(0)));
  auto sampling = blueprint.root().initSampling();
  TROUPE_RETURN_IF_ERROR(read_sampling(fields, model, limits, sampling));
  sampling.setLogprobs(options.logprobs);
  sampling.setTopLogprobs(options.top_logprobs);
  TROUPE_ASSIGN_OR_RETURN(const std::string cache_salt, read_cache_salt(fields, limits));
  blueprint.root().setCacheSalt(cache_salt);
  TROUPE_ASSIGN_OR_RETURN(const std::int32_t priority, read_priority(fields));
  blueprint.root().setPriority(priority);
  TROUPE_ASSIGN_OR_RETURN(options.timeout_ms, read_timeout_ms(fields));
  TROUPE_ASSIGN_OR_RETURN(const auto speculation, fields.boolean("speculation"));
  blueprint.root().setNoSpeculation(!speculation.value_or(true));
  options.blueprint = std::move(blueprint).finish();

  TROUPE_ASSIGN_OR_RETURN(const auto user, fields.string("user"));
  fields.ignore({"metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention",
                 "prediction"});
  for (std::string& unknown : fields.unknown()) options.unknown_fields.push_back(std::move(unknown));
  return options;
}

}  // namespace troupe
