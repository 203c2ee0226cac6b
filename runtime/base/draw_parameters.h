#pragma once

#include <cstdint>

namespace troupe {

// How a token is drawn, and whether it is rated, wherever that is done: the numbers of a request, in the words of
// OpenAI's API. engine::Sampler says what each does, and in which order.
struct DrawParameters {
  float temperature = 1;  // 0 = greedy
  std::uint32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::uint64_t seed = 0;
  bool logprobs = false;           // rate the token
  std::uint32_t top_logprobs = 0;  // and as many of the most probable

  constexpr bool has_penalties() const {
    return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0;
  }
};

}  // namespace troupe
