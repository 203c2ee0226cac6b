#pragma once

#include <cstdint>
#include <span>

#include "kernels/kernels.h"
#include "runtime/base/result.h"

namespace troupe::model {

// One step as a transformer sees it: flat, struct of arrays, spans into the caller's memory. Row i of the batch is
// one token; the rows of a sequence are consecutive and end with its last token.
struct StepBatch {
  std::span<const std::uint32_t> tokens;  // (tokens)
  // (tokens), or empty: which row of the batch that the kernels' sampler had last has drawn the token, or
  // kernels::kTokenIsKnown. That batch had so many rows; a device that has no sampler takes none.
  std::span<const std::uint32_t> token_sources;
  std::span<const std::uint32_t> positions;    // (tokens)
  std::span<const std::uint32_t> slots;        // (tokens): block id * block_size + offset, where K and V go
  kernels::AttentionBatch attention;           // the sequences
  std::span<const std::uint32_t> logits_rows;  // rows whose logits are wanted (last stage)
};

// What a batch must fit into.
struct BatchBounds {
  std::uint32_t vocab_size = 0;
  std::uint32_t num_blocks = 0;
  std::uint32_t block_size = 0;
  std::uint32_t max_batch_tokens = 0;
  std::uint32_t max_batch_sequences = 0;
};

// Whether every id, slot, length and table entry is in range, so that no kernel reads or writes outside its memory
// whatever a step message held. Errors: kInvalidArgument naming the list and the entry.
Result<void> check_batch(const StepBatch& batch, const BatchBounds& bounds);

}  // namespace troupe::model
