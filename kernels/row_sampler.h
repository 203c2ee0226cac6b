#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/tensor.h"
#include "runtime/base/draw_parameters.h"
#include "runtime/base/result.h"

namespace troupe::kernels {

// What stands for a token where none can be drawn: the row holds NaN or +infinity, or nothing but -infinity.
constexpr std::uint32_t kNoToken = 0xffffffff;

// How the token of one row is drawn. Lists are ranges of the batch's.
struct SamplingRow : DrawParameters {
  std::uint32_t position = 0;       // of the token to draw: tokens before it
  std::uint32_t history[2] = {};    // of SamplingBatch::history: these tokens; may be empty without penalties
  std::uint32_t prompt_length = 0;  // of these
  std::uint32_t biases[2] = {};     // of SamplingBatch::bias_tokens and bias_values
  std::uint32_t masked[2] = {};     // of SamplingBatch::masked: tokens that must not come yet
  std::uint32_t given = kNoToken;   // this token instead of one that is drawn: to be rated
};

// The rows of a step that are drawn from. In the host's memory.
struct SamplingBatch {
  std::span<const SamplingRow> rows;
  std::span<const std::uint32_t> history;      // flat; every token is in the vocabulary
  std::span<const std::uint32_t> bias_tokens;  // flat
  std::span<const float> bias_values;          // flat
  std::span<const std::uint32_t> masked;       // flat
};

// Batches whose results may be on their way to the host at a time.
inline constexpr std::size_t kMostBatchesSent = 2;

// Of a batch, in the host's memory. logprobs are of the distribution before temperature and truncation, and mean
// something in rows that asked for them.
struct SampledRows {
  std::span<const std::uint32_t> tokens;  // (rows): drawn, given, or kNoToken
  std::span<const float> logprobs;        // (rows)
  // (rows, most_top_logprobs), most probable first, ties by token; kNoToken where only -infinity is left.
  std::span<const std::uint32_t> top_tokens;
  std::span<const float> top_logprobs;
  std::size_t most_top_logprobs = 0;  // of any row
};

// Draws tokens where the logits are, on a device other than the host: those of engine::Sampler given the same logits,
// but for the rounding of sums of weights (kernels/cuda/sampling.h). Belongs to a Kernels object, and shares its order,
// errors and thread.
class RowSampler {
 public:
  virtual ~RowSampler() = default;

  // The rows of a step. The lists may change as soon as this returns.
  virtual void begin(const SamplingBatch& batch) = 0;

  // Draws from the batch's rows [first, first + logits.rows). logits: (.., vocabulary), on the device. Nothing waits.
  virtual void draw(std::size_t first, ConstMatrixF32 logits) = 0;

  // Every row was drawn from: what came of it goes to the host. Nothing waits, and the next batch may begin.
  // REQUIRES: less than kMostBatchesSent are on their way.
  virtual void send() = 0;

  // What the oldest batch that was sent has given, until two more are. Errors: what became of the device.
  // REQUIRES: everything up to its send() is done (DeviceMemory::synchronize or notify).
  virtual Result<SampledRows> take() = 0;
};

}  // namespace troupe::kernels
