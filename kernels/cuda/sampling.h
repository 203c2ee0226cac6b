#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/gpu.h"
#include "kernels/row_sampler.h"

namespace troupe::kernels {

// Draws a token for each row, or rates the one that is given. All pointers are of the device.
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
  const SamplingRow* parameters = nullptr;     // (rows), top_logprobs at most most_top_logprobs
  const std::uint32_t* history = nullptr;      // flat; every token < vocabulary
  const std::uint32_t* bias_tokens = nullptr;  // flat
  const float* bias_values = nullptr;          // flat
  const std::uint32_t* masked = nullptr;       // flat

  std::uint32_t* tokens = nullptr;  // (rows): drawn, given, or kNoToken
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
