#pragma once

#include <cstdint>

#include "kernels/tensor.h"
#include "runtime/model/arenas.h"
#include "runtime/model/slice.h"

namespace troupe::model {

// What the largest step of a shard may hold.
struct StepSize {
  std::uint32_t max_batch_tokens = 0;
  std::uint32_t max_logits_rows = 0;
  bool on_host = true;  // the device is the host
};

// Activations of the largest step; a step uses the first rows of each. Matrices that a shard does not need are empty.
// Non-owning.
struct Scratch {
  // In the device's memory.
  kernels::MatrixF32 hidden;         // (max_batch_tokens, hidden_size)
  kernels::MatrixF32 normed;         // (max_batch_tokens, hidden_size)
  kernels::MatrixF32 partial;        // (max_batch_tokens, hidden_size): this rank's addend of a sum over ranks
  kernels::MatrixF32 queries;        // (max_batch_tokens, heads * head_dim)
  kernels::MatrixF32 attended;       // (max_batch_tokens, heads * head_dim)
  kernels::MatrixF32 gated;          // (max_batch_tokens, intermediate), of the widest MLP or shared expert
  kernels::MatrixF32 router_logits;  // experts: (max_batch_tokens, num_experts)
  // Experts that the rank has itself: of one at a time on the host, else of all, (max_batch_tokens *
  // num_experts_per_token, ..).
  kernels::MatrixF32 routed;         // on the host: (max_batch_tokens, hidden_size): the rows that go to one of them
  kernels::MatrixF32 expert_gated;   // (max_batch_tokens, intermediate)
  kernels::MatrixF32 expert_out;     // (max_batch_tokens, hidden_size): what they make of their rows; where expert
                                     // shards do, a copy of expert_sum if the device is not the host
  kernels::MatrixF32 logits_hidden;  // last stage: (max_logits_rows, hidden_size)
  kernels::MatrixF32 part_logits;    // last stage, several ranks or a device that is not the host: (max_logits_rows,
                                     // vocab rows of the largest rank)
  kernels::MatrixF32 gathered;       // part_logits of all ranks, on rank 0: (world_size * max_logits_rows, same)
  kernels::MatrixF32 whole_logits;   // gathered, on rank 0 where the device is not the host: (max_logits_rows,
                                     // vocab_size)

  // In the host's.
  kernels::MatrixF32 logits;           // last stage, rank 0: (max_logits_rows, vocab_size)
  kernels::MatrixF32 outgoing_hidden;  // a copy of `hidden` for the next stage where the device is not the host
  // A rank that asks expert shards:
  kernels::MatrixF32 expert_sum;       // (max_batch_tokens, hidden_size): what all of them make of their rows
  kernels::MatrixF32 outgoing_normed;  // copies for them of `normed` and router_logits where the device is not the host
  kernels::MatrixF32 outgoing_router_logits;

  // REQUIRES: the arenas have scratch_bytes(config, slice, size) left.
  static Scratch take(Arena& device, Arena& host, const ModelConfig& config, const Slice& slice, const StepSize& size);
};

struct ScratchBytes {
  std::uint64_t device = 0;
  std::uint64_t host = 0;
};

// Rows of logits that a shard has memory for: even a single sequence has the guesses of a step rated at once, so that
// lm_head is read once.
std::uint32_t logits_rows(std::uint32_t max_batch_sequences, std::uint32_t max_batch_tokens);

// Vocabulary rows of the rank that has most: what every rank sends when logits are gathered.
std::uint64_t largest_vocab_part(const ModelConfig& config, const Slice& slice);

// Bytes of scratch of a shard. Needs no file: for the planner. REQUIRES: check_slice(config, slice).ok()
ScratchBytes scratch_bytes(const ModelConfig& config, const Slice& slice, const StepSize& size);

}  // namespace troupe::model
