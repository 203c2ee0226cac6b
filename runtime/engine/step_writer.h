#pragma once

#include <span>

#include "runtime/engine/batch_former.h"
#include "runtime/engine/block_manager.h"
#include "schema/step.capnp.h"

namespace troupe::engine {

// Fills everything of a step but its fence. `released`: sequences that the shards are to forget.
void write_step(const Batch& batch, const BlockManager& blocks, std::span<const SequenceId> released,
                schema::Step::Builder step);

}  // namespace troupe::engine
