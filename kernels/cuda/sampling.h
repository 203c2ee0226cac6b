#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/gpu.h"

namespace troupe::kernels {

// How the token of one row is drawn: engine::SamplingParameters (runtime/engine/sampling_parameters.h) with lists as
// ranges of the call's arrays.
struct SamplingRow {
  float temperature = 1;  // 0 = greedy
  std::uint32_t top_k = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::uint64_t seed = 0;
  std::uint32_t history[2] = {};    // of SampleCall::history: prompt, then generated tokens
  std::uint32_t prompt_length = 0;  // of these
  std::uint32_t biases[2] = {};     // of SampleCall::bias_tokens and bias_values
  std::uint32_t masked[2] = {};     // of SampleCall::masked: tokens that must not come yet
  bool logprobs = false;            // rate the token
  std::uint32_t top_logprobs = 0;   // and as many of the most probable, at most SampleCall::most_top_logprobs
};

// What stands for a token where none can be drawn: the row holds NaN or +infinity, or nothing but -infinity.
constexpr std::uint32_t kNoToken = 0xffffffff;

// Draws the token at position history length of each row. All pointers are of the device.
//
// The tokens are those of engine::Sampler (runtime/engine/sampler.h) given the same logits: biases, penalties,
// temperature, the order of equals and the random number are the same to the bit, and the exponentials are computed as
// glibc computes them. Sums of weights are float64, but in another order: a token differs where a draw, or the end of
// top-p, falls within the rounding of such a sum, some 1e-13 of it. Logprobs may differ in the last bit.
struct SampleCall {
  const float* logits = nullptr;  // (rows, vocabulary)
  std::size_t rows = 0;
  std::size_t vocabulary = 0;
  std::size_t row_stride = 0;                  // elements
  const SamplingRow* parameters = nullptr;     // (rows)
  const std::uint32_t* history = nullptr;      // flat; every token < vocabulary
  const std::uint32_t* bias_tokens = nullptr;  // flat
  const float* bias_values = nullptr;          // flat
  const std::uint32_t* masked = nullptr;       // flat

  std::uint32_t* tokens = nullptr;  // (rows): the result, or kNoToken
  // For rows with logprobs: of the distribution before temperature and truncation. Null where no row has any.
  float* logprobs = nullptr;            // (rows)
  std::uint32_t* top_tokens = nullptr;  // (rows, most_top_logprobs), most probable first, ties by token;
                                        // kNoToken where only -infinity is left
  float* top_logprobs = nullptr;        // (rows, most_top_logprobs)
  std::size_t most_top_logprobs = 0;

  std::byte* workspace = nullptr;  // sample_workspace_bytes(rows, vocabulary), at a multiple of 16 bytes
};

// Of one row: 28 bytes a token.
constexpr std::size_t sample_row_bytes(std::size_t vocabulary) { return (vocabulary * 28 + 15) / 16 * 16; }
constexpr std::size_t sample_workspace_bytes(std::size_t rows, std::size_t vocabulary) {
  return rows * sample_row_bytes(vocabulary);
}

// Thread-safety: asynchronous on the stream.
TROUPE_GPU_FUNCTIONS(void sample(Stream stream, const SampleCall& call);)

}  // namespace troupe::kernels
