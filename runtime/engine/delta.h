#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/engine/sampler.h"
#include "schema/generate.capnp.h"

namespace troupe::engine {

// What an owner is told about one of its requests: the contents of a schema::Delta, and whose it is.
struct Delta {
  std::uint64_t owner = 0;
  std::uint64_t request = 0;
  std::vector<std::uint32_t> tokens;
  std::vector<RatedToken> logprobs;         // one for each of `tokens`, if asked for
  std::vector<RatedToken> prompt_logprobs;  // for prompt positions 1.., complete, if asked for
  schema::FinishReason finish = schema::FinishReason::NONE;
  std::optional<Error> error;          // with finish = error
  std::uint64_t queue_ns = 0;          // with the first token
  std::uint32_t cached_tokens = 0;     // with the first token
  std::uint32_t guesses = 0;           // checked together with `tokens`
  std::uint32_t accepted_guesses = 0;  // of them, that are among `tokens`
};

void write_delta(const Delta& delta, schema::Delta::Builder to);

void write_rated(const RatedToken& rated, schema::TokenLogprobs::Builder to);
RatedToken read_rated(schema::TokenLogprobs::Reader from);

}  // namespace troupe::engine
