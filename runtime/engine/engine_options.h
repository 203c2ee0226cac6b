#pragma once

#include <cstdint>

#include "runtime/base/limits.h"

namespace troupe::engine {

struct EngineOptions {
  std::uint32_t num_blocks = 0;
  std::uint32_t num_swap_blocks = 0;  // beside the pages; 0 = what is preempted is always computed anew
  std::uint32_t block_size = 0;
  std::uint32_t max_model_len = 0;
  std::uint32_t max_batch_tokens = 0;
  std::uint32_t max_batch_sequences = 0;
  std::uint32_t pipeline_stages = 1;  // steps in flight at a time
  std::uint32_t max_guesses = 0;      // of a sequence in a step (speculation.h); 0 = no speculation
  bool uses_draft = false;            // guesses come from a draft (draft.capnp), not from the text so far
  // With one stage of one rank, a second step may be in flight: one of decodes that is formed before the tokens of the
  // first are known (sampledToken in step.capnp). Its device need not wait for the scheduler between steps; who arrives
  // meanwhile waits for both.
  bool lookahead = false;
  // queue, target_ttft_ms, idle_tenants, decode_stall_percent, stop_tokens, logit_bias_entries, top_logprobs,
  // cache_salt_bytes, prefix_cache_blocks
  Limits limits;
};

// Of Generate.priority: smaller runs earlier.
inline constexpr std::int32_t kMostUrgentPriority = -100, kLeastUrgentPriority = 100;
inline constexpr std::uint32_t kLongestDeadlineMs = 86'400'000;  // of Generate.deadlineMs

}  // namespace troupe::engine
