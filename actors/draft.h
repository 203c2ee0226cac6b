#pragma once

#include <cstdint>
#include <string>

#include <caf/actor.hpp>
#include <caf/actor_system.hpp>

#include "runtime/base/limits.h"
#include "schema/draft.capnp.h"

namespace troupe {

struct DraftOptions {
  Limits limits;
  std::string node;  // of its process, for Stats
  std::uint64_t incarnation = 0;
};

// A small model beside the scheduler that guesses the next tokens of its sequences (DraftActor in actors/interfaces.h).
// A detached actor: its thread is the first of the draft's worker team.
//
//   Spawn        -> Spawned      loads the model, and compares its vocabulary with that of the one it guesses for
//   DraftRequest -> DraftReply   empty when something went wrong: nobody depends on a draft
//   StatsRequest -> Stats
caf::actor spawn_draft(caf::actor_system& system, DraftOptions options);

}  // namespace troupe
