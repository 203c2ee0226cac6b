#pragma once

#include <cstdint>
#include <string>

#include <caf/actor.hpp>
#include <caf/actor_system.hpp>

#include "actors/names.h"

namespace troupe {

struct StageOptions {
  std::uint32_t replica = 0;
  std::uint32_t stage = 0;
  std::uint32_t stages = 1;  // of the pipeline
  std::uint32_t ranks = 1;   // tensor-parallel shards of this stage
  ActorResolver resolve;
  std::string node;  // of its process, for Stats
  std::uint64_t incarnation = 0;
};

// Station 3 of a request: a pipeline stage. Hands every step to its shards and lets the output of its rank 0 flow
// on: hidden states to the next stage, a result to the scheduler.
//
//   Assemble   -> Outcome   learns the epoch, its shards, the next stage, the scheduler
//   Step                    from the scheduler (stage 0): to all shards
//   Activation              from the previous stage: to all shards; from its own rank 0: to the next stage
//   StepResult              from its shards: to the scheduler
//   StatsRequest -> Stats
//
// Messages of another epoch are dropped.
caf::actor spawn_stage(caf::actor_system& system, StageOptions options);

}  // namespace troupe
