#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "cluster/bench/length_distribution.h"
#include "cluster/bench/trace.h"

namespace troupe::cluster {

struct WorkloadOptions {
  LengthDistribution prompt_tokens{128};  // without a trace
  LengthDistribution max_tokens{128};
  std::uint32_t shared_prefix = 0;  // tokens that all prompts begin with; a part of their length
  std::uint32_t vocab_size = 1000;  // >= 10
  std::uint32_t max_model_len = 0;  // prompt and answer together; 0 = without bound, else >= 2
  std::uint64_t seed = 0;
  // Of a trace: factors of its lengths, and to how many tokens its blocks of kTraceBlockTokens shrink or grow.
  double prompt_scale = 1;
  double output_scale = 1;
  std::uint32_t block_tokens = kTraceBlockTokens;
};

// One request, before it is written as JSON.
struct PlannedRequest {
  std::vector<std::uint32_t> prompt;  // token ids; of a prompt in words each stands for a word
  std::uint32_t max_tokens = 1;
  std::uint64_t seed = 0;  // of its sampling
  bool clipped = false;    // to max_model_len
};

// What the requests of a run are. Each is a function of (options, trace, index) alone, so that a run can be repeated
// whatever the order in which its requests are sent. Immutable; thread-safe.
//
// Prompts are drawn uniformly from the middle 80 % of the vocabulary: special tokens live at its ends. Blocks of a
// trace with equal hash_ids become equal tokens, so that prompts share prefixes as they did when the trace was taken.
class Workload {
 public:
  // `trace` may be null. REQUIRES: the ranges above.
  Workload(WorkloadOptions options, std::shared_ptr<const Trace> trace);

  // The request of that number; a trace begins again after its last one.
  PlannedRequest request(std::uint64_t index) const;

  // Likewise, but with a prompt that no measured request has, and a short answer.
  PlannedRequest warmup(std::uint64_t index) const;

  // The hash_ids of a request whose trace has them: those of its blocks, of block_tokens each, that were not clipped.
  std::span<const std::uint64_t> blocks(std::uint64_t index) const;

  const WorkloadOptions& options() const { return options_; }

 private:
  struct Lengths {
    std::uint32_t prompt;
    std::uint32_t output;
    bool clipped;
  };

  Lengths lengths(std::uint64_t index, RandomStream& random) const;
  PlannedRequest plan(std::uint64_t index, RandomStream random) const;
  std::uint32_t token(RandomStream& random) const;

  WorkloadOptions options_;
  std::shared_ptr<const Trace> trace_;
  std::vector<std::uint32_t> shared_prefix_;
};

}  // namespace troupe::cluster
