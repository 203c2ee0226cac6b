#include "runtime/engine/sampling_parameters.h"

#include <cmath>
#include <string>

namespace troupe::engine {

namespace {

constexpr float kMaxPenalty = 100;  // beyond it every logit of interest has long been pushed aside
constexpr float kMaxLogitBias = 100;

// NaN compares false and is refused with the rest.
Result<void> check_range(float value, float low, float high, const char* param) {
  if (value >= low && value <= high) return {};
  return invalid_argument(std::string(param) + " is " + std::to_string(value) + "; it must be from " +
                              std::to_string(low) + " to " + std::to_string(high),
                          param);
}

}  // namespace

Result<void> read_sampling(schema::Sampling::Reader from, const Limits& limits, SamplingParameters& parameters) {
  TROUPE_RETURN_IF_ERROR(check_range(from.getTemperature(), 0, 1e6F, "temperature"));
  TROUPE_RETURN_IF_ERROR(check_range(from.getTopP(), 1e-9F, 1, "top_p"));
  TROUPE_RETURN_IF_ERROR(check_range(from.getMinP(), 0, 1, "min_p"));
  TROUPE_RETURN_IF_ERROR(check_range(from.getRepetitionPenalty(), 0.01F, kMaxPenalty, "repetition_penalty"));
  TROUPE_RETURN_IF_ERROR(check_range(from.getPresencePenalty(), -kMaxPenalty, kMaxPenalty, "presence_penalty"));
  TROUPE_RETURN_IF_ERROR(check_range(from.getFrequencyPenalty(), -kMaxPenalty, kMaxPenalty, "frequency_penalty"));
  if (from.getTopLogprobs() > limits.top_logprobs) {
    return invalid_argument("top_logprobs is " + std::to_string(from.getTopLogprobs()) +
                                "; the limit top_logprobs is " + std::to_string(limits.top_logprobs),
                            "top_logprobs");
  }
  const auto biases = from.getLogitBias();
  if (biases.size() > limits.logit_bias_entries) {
    return invalid_argument("logit_bias has " + std::to_string(biases.size()) +
                                " entries; the limit logit_bias_entries is " +
                                std::to_string(limits.logit_bias_entries),
                            "logit_bias");
  }
  parameters.logit_bias.clear();
  for (const auto bias : biases) {
    TROUPE_RETURN_IF_ERROR(check_range(bias.getBias(), -kMaxLogitBias, kMaxLogitBias, "logit_bias"));
    parameters.logit_bias.emplace_back(bias.getToken(), bias.getBias());
  }
  parameters.temperature = from.getTemperature();
  parameters.top_k = from.getTopK();
  parameters.top_p = from.getTopP();
  parameters.min_p = from.getMinP();
  parameters.repetition_penalty = from.getRepetitionPenalty();
  parameters.presence_penalty = from.getPresencePenalty();
  parameters.frequency_penalty = from.getFrequencyPenalty();
  parameters.seed = from.getSeed();
  parameters.logprobs = from.getLogprobs();
  parameters.top_logprobs = from.getTopLogprobs();
  parameters.prompt_logprobs = from.getPromptLogprobs();
  return {};
}

void write_sampling(const SamplingParameters& parameters, schema::Sampling::Builder to) {
  to.setTemperature(parameters.temperature);
  to.setTopK(parameters.top_k);
  to.setTopP(parameters.top_p);
  to.setMinP(parameters.min_p);
  to.setRepetitionPenalty(parameters.repetition_penalty);
  to.setPresencePenalty(parameters.presence_penalty);
  to.setFrequencyPenalty(parameters.frequency_penalty);
  to.setSeed(parameters.seed);
  to.setLogprobs(parameters.logprobs);
  to.setTopLogprobs(parameters.top_logprobs);
  to.setPromptLogprobs(parameters.prompt_logprobs);
  auto biases = to.initLogitBias(static_cast<unsigned>(parameters.logit_bias.size()));
  for (unsigned i = 0; i < biases.size(); ++i) {
    biases[i].setToken(parameters.logit_bias[i].first);
    biases[i].setBias(parameters.logit_bias[i].second);
  }
}

}  // namespace troupe::engine
