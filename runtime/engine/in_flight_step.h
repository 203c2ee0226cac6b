#pragma once

#include <capnp/list.h>

#include <cstdint>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/engine/sequence.h"
#include "runtime/engine/step_budget.h"
#include "schema/step.capnp.h"

namespace troupe::engine {

// A sequence in a step.
struct InFlightItem {
  SequenceId sequence = 0;
  std::uint32_t end = 0;  // tokens of it that are in the pages after the step, guesses aside
  bool sample = false;
  std::vector<std::uint32_t> guesses;
};

// A step whose result is not here.
struct InFlightStep {
  std::uint64_t step = 0;
  bool ahead = false;      // goes on from what the step before it draws
  std::uint32_t rows = 0;  // of a step that decodes alone; 0 for others
  std::vector<InFlightItem> items;
  std::vector<SequenceId> released;  // told to the shards again if the step fails
  std::vector<SequenceId> swapped_out;
  std::uint32_t copies = 0;
  std::uint64_t sent_ns = 0;
  StepWork work;

  // Whether a result fits: its sequences, and as many tokens of each as there can be. Errors: kInternal, mismatch().
  Result<void> check(schema::StepResult::Reader result) const;
  Error mismatch(const char* what) const;
};

// Tokens that a result has of its sequence `index`.
unsigned run_length(capnp::List<std::uint32_t>::Reader token_counts, unsigned index);

}  // namespace troupe::engine
