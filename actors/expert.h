#pragma once

#include <cstdint>
#include <string>

#include <caf/actor.hpp>
#include <caf/actor_system.hpp>

#include "runtime/base/limits.h"
#include "schema/expert.capnp.h"

namespace troupe {

struct ExpertOptions {
  Limits limits;
  std::string node;  // of its process, for Stats
  std::uint64_t incarnation = 0;
};

// Station 5 of a request: some routed experts of one pipeline stage on one device (ExpertActor in actors/interfaces.h).
// A detached actor: its thread is the first of the experts' worker team.
//
//   Spawn        -> Spawned   loads its experts' weights; reports LoadProgress to whoever asked
//   Assemble     -> Outcome   takes dispatches of the new epoch only
//   Dispatch     -> Combine   the weighted sums, or an error: of another epoch (cancelled), of a message that does not
//                             fit (invalidArgument, corruptData), of the device
//   StatsRequest -> Stats
//
// An error of its device ends the actor, as only a new life mends that.
caf::actor spawn_expert(caf::actor_system& system, ExpertOptions options);

}  // namespace troupe
