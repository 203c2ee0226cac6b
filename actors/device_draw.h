#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/row_sampler.h"
#include "kernels/tensor.h"
#include "runtime/base/result.h"
#include "runtime/engine/sampler.h"
#include "runtime/engine/shard_sequences.h"

namespace troupe {

// Draws a step's tokens where its logits are: tells a device's sampler what the sequences of the step want, and the
// sequences what was drawn. A step is begin(), draw() until every row was there, send(), and, when the device has done
// that, finish(); before that, a second step may go as far as send(). Takes no memory once its lists have grown to the
// largest step. One thread, that of the sampler.
class DeviceDraw {
 public:
  explicit DeviceDraw(kernels::RowSampler& sampler) : sampler_(sampler) {}

  // sequences: of the step begun last.
  void begin(const engine::ShardSequences& sequences);

  // logits: (.., vocab_size), on the device, of the step's logits_rows [first, first + logits.rows). Nothing waits.
  void draw(std::size_t first, kernels::ConstMatrixF32 logits) { sampler_.draw(first, logits); }

  // What is drawn goes to the host. Nothing waits.
  void send();

  // Of the oldest step that was sent, whose number it is. Errors: what became of the device; a row from which nothing
  // can be drawn. REQUIRES: the device has done everything up to its send().
  Result<void> finish(std::uint64_t step, engine::ShardSequences& sequences);

  // Nobody wants to know any more what the steps that were sent have drawn.
  void forget();

 private:
  void add(const engine::RowToDraw& row, std::vector<kernels::SamplingRow>& rows);

  kernels::RowSampler& sampler_;
  std::array<std::vector<kernels::SamplingRow>, kernels::kMostBatchesSent> rows_;  // of steps, in turns
  std::uint64_t sent_ = 0;                                                         // steps
  std::uint64_t finished_ = 0;
  // Of the step begun last.
  std::vector<std::uint32_t> history_;
  std::vector<std::uint32_t> bias_tokens_;
  std::vector<float> bias_values_;
  std::vector<std::uint32_t> masked_;
  std::vector<engine::RatedToken> drawn_;  // (at least rows)
};

}  // namespace troupe
