#include "runtime/engine/request.h"

#include <algorithm>
#include <string>

namespace troupe::engine {

namespace {

std::uint32_t capacity_of(const EngineOptions& options) {
  const std::uint64_t kv_tokens = std::uint64_t{options.num_blocks} * options.block_size;
  return static_cast<std::uint32_t>(std::min<std::uint64_t>(options.max_model_len, kv_tokens));
}

}  // namespace

Result<Sequence> read_request(schema::Generate::Reader generate, const EngineOptions& options) {
  const auto prompt = generate.getTokens();
  const std::uint32_t capacity = capacity_of(options);
  if (prompt.size() == 0) return invalid_argument("the prompt holds no token", "prompt");
  const std::uint64_t needed = std::uint64_t{prompt.size()} + (generate.getMaxTokens() > 0 ? 1 : 0);
  if (needed > capacity) {
    const bool by_model = options.max_model_len == capacity;
    return invalid_argument("the prompt has " + std::to_string(prompt.size()) +
                                " tokens; prompt and answer together may have " + std::to_string(capacity) +
                                (by_model ? " (max_model_len)" : " (what the KV pages hold, limit kv_memory)"),
                            "prompt");
  }
  const auto stops = generate.getStopTokens();
  if (stops.size() > options.limits.stop_tokens) {
    return invalid_argument("stop_token_ids has " + std::to_string(stops.size()) +
                                " entries; the limit stop_tokens is " + std::to_string(options.limits.stop_tokens),
                            "stop_token_ids");
  }
  if (generate.getMinTokens() > generate.getMaxTokens()) {
    return invalid_argument("min_tokens is " + std::to_string(generate.getMinTokens()) + ", more than max_tokens, " +
                                std::to_string(generate.getMaxTokens()),
                            "min_tokens");
  }
  if (generate.getPriority() < kMostUrgentPriority || generate.getPriority() > kLeastUrgentPriority) {
    return invalid_argument("priority is " + std::to_string(generate.getPriority()) + ", outside " +
                                std::to_string(kMostUrgentPriority) + ".." + std::to_string(kLeastUrgentPriority),
                            "priority");
  }
  if (generate.getDeadlineMs() > kLongestDeadlineMs) {
    return invalid_argument("the timeout is " + std::to_string(generate.getDeadlineMs()) + " ms, more than " +
                                std::to_string(kLongestDeadlineMs),
                            "timeout");
  }
  const auto salt = generate.getCacheSalt();
  if (salt.size() > options.limits.cache_salt_bytes) {
    return invalid_argument("cache_salt has " + std::to_string(salt.size()) + " bytes; the limit cache_salt_bytes is " +
                                std::to_string(options.limits.cache_salt_bytes),
                            "cache_salt");
  }
  Sequence sequence;
  sequence.cache_salt = std::string(salt.begin(), salt.end());
  TROUPE_RETURN_IF_ERROR(read_sampling(generate.getSampling(), options.limits, sequence.sampling));
  sequence.sampling.stop_tokens.reserve(stops.size());
  for (const std::uint32_t token : stops) sequence.sampling.stop_tokens.push_back(token);
  sequence.sampling.min_tokens = generate.getMinTokens();
  sequence.tokens.reserve(prompt.size());
  for (const std::uint32_t token : prompt) sequence.tokens.push_back(token);
  sequence.prompt_length = prompt.size();
  sequence.priority = generate.getPriority();
  sequence.tenant = generate.getTenant();
  sequence.speculates = !generate.getNoSpeculation();
  sequence.max_length = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(capacity, std::uint64_t{prompt.size()} + generate.getMaxTokens()));
  sequence.prompt_logprobs_complete = !sequence.sampling.prompt_logprobs || prompt.size() == 1;
  return sequence;
}

}  // namespace troupe::engine
