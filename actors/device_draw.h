#pragma once

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
// sequences what was drawn. A step is begin(), draw() until every row was there, and finish(). Takes no memory once its
// lists have grown to the largest step. One thread, that of the sampler.
class DeviceDraw {
 public:
  explicit DeviceDraw(kernels::RowSampler& sampler) : sampler_(sampler) {}

  // sequences: of the step begun last.
  void begin(const engine::ShardSequences& sequences);

  // logits: (.., vocab_size), on the device, of the step's logits_rows [first, first + logits.rows). Nothing waits.
  void draw(std::size_t first, kernels::ConstMatrixF32 logits) { sampler_.draw(first, logits); }

  // Waits for the device. Errors: what became of it; a row from which nothing can be drawn.
  Result<void> finish(engine::ShardSequences& sequences);

 private:
  void add(const engine::RowToDraw& row);

  kernels::RowSampler& sampler_;
  // Of the step begun last.
  std::vector<kernels::SamplingRow> rows_;
  std::vector<std::uint32_t> history_;
  std::vector<std::uint32_t> bias_tokens_;
  std::vector<float> bias_values_;
  std::vector<std::uint32_t> masked_;
  std::vector<engine::RatedToken> drawn_;  // (at least rows)
};

}  // namespace troupe
