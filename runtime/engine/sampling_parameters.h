#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "runtime/base/draw_parameters.h"
#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "schema/generate.capnp.h"
#include "schema/step.capnp.h"

namespace troupe::engine {

// How one sequence draws its tokens, checked: the contents of schema::Sampling and of the stop-token mask.
struct SamplingParameters : DrawParameters {
  std::vector<std::pair<std::uint32_t, float>> logit_bias;  // (token, bias)
  bool prompt_logprobs = false;
  std::vector<std::uint32_t> stop_tokens;  // masked before min_tokens are generated
  std::uint32_t min_tokens = 0;
};

// Reads into `parameters`, keeping the capacity of its lists. Leaves the stop-token mask alone.
// Errors: a number outside its range or not finite, a list beyond its limit (param = the name in the OpenAI API).
Result<void> read_sampling(schema::Sampling::Reader from, const Limits& limits, SamplingParameters& parameters);

void write_sampling(const SamplingParameters& parameters, schema::Sampling::Builder to);

}  // namespace troupe::engine
