#pragma once

#include <capnp/list.h>

#include <cstdint>
#include <string>

#include "runtime/base/result.h"
#include "schema/step.capnp.h"

namespace troupe::engine {

// The lists of a step. Each is taken out of the message once: a reader counts what is asked of it, and takes somebody
// who asks for a long list with every entry of it for an attacker.
struct StepLists {
  explicit StepLists(schema::Step::Reader step)
      : sequences(step.getSequences()),
        token_counts(step.getTokenCounts()),
        start_positions(step.getStartPositions()),
        new_block_counts(step.getNewBlockCounts()),
        sample(step.getSample()),
        tokens(step.getTokens()),
        new_blocks(step.getNewBlocks()),
        next_tokens(step.getNextTokens()),
        guess_counts(step.getGuessCounts()) {}

  capnp::List<std::uint64_t>::Reader sequences;
  capnp::List<std::uint32_t>::Reader token_counts, start_positions, new_block_counts;
  capnp::List<bool>::Reader sample;
  capnp::List<std::uint32_t>::Reader tokens, new_blocks, next_tokens, guess_counts;
};

// An error of the step, kInvalidArgument.
Error bad_step(schema::Step::Reader step, const std::string& what);

// Whether the lists fit together. Errors: those that do not; no sequences or more than max_sequences, more tokens than
// max_tokens.
Result<void> check_sizes(schema::Step::Reader step, const StepLists& lists, std::uint32_t max_sequences,
                         std::uint32_t max_tokens);

}  // namespace troupe::engine
