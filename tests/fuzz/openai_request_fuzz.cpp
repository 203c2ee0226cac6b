#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "actors/gateway/request_plan.h"

// Bodies of both endpoints for a model without a tokenizer, up to the message for the scheduler. Whatever is accepted
// must be inside the model's bounds.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const troupe::ServedModel model = [] {
    troupe::ServedModel made;
    made.name = "m";
    made.vocab_size = 100;
    made.max_model_len = 64;
    return made;
  }();
  const std::string_view body(reinterpret_cast<const char*>(data), size);
  const troupe::Limits limits;
  if (troupe::plan_chat(body, model, limits).ok()) std::abort();  // there is no template
  auto plan = troupe::plan_completion(body, model, limits);
  if (!plan.ok() || troupe::fit_lengths(*plan, model)) return 0;
  for (std::size_t i = 0; i < plan->prompts.size(); ++i) {
    const auto generate = troupe::generate_message(*plan, i, i + 1, 0).read();
    const auto sampling = generate->getSampling();
    bool inside = generate->getTokens().size() + generate->getMaxTokens() <= model.max_model_len;
    for (const std::uint32_t token : generate->getTokens()) inside = inside && token < model.vocab_size;
    for (const std::uint32_t token : generate->getStopTokens()) inside = inside && token < model.vocab_size;
    for (const auto bias : sampling.getLogitBias()) inside = inside && bias.getToken() < model.vocab_size;
    inside = inside && sampling.getTemperature() >= 0 && sampling.getTopP() > 0 && sampling.getTopP() <= 1;
    inside = inside && generate->getCacheSalt().size() <= limits.cache_salt_bytes;
    if (!inside) std::abort();
  }
  return 0;
}
