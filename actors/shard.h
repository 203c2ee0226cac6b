#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <caf/actor.hpp>
#include <caf/actor_system.hpp>

#include "actors/names.h"
#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/collective/communicator.h"
#include "schema/cluster.capnp.h"

namespace troupe {

// Joins the tensor-parallel group of a shard for one epoch. Must not wait for the other ranks.
using CommunicatorFactory = std::function<Result<std::unique_ptr<collective::Communicator>>(schema::ShardSpec::Reader,
                                                                                            schema::Assemble::Reader)>;

struct ShardOptions {
  ActorResolver resolve;
  CommunicatorFactory make_communicator;
  Limits limits;
  std::string node;  // of its process, for Stats
  std::uint64_t incarnation = 0;
};

// Station 4 of a request: one tensor-parallel rank of one pipeline stage on one device. A detached actor: its thread
// is the first of the shard's worker team, and everything blocks in order.
//
//   Spawn        -> Spawned   loads its slice of the weights; reports LoadProgress to whoever asked
//   Assemble     -> Outcome   forgets all sequences, joins the group of the new epoch, finds its expert actors
//   Step                      first stage: tokens in; Activation: later stages: hidden states in
//   StatsRequest -> Stats
//
// Rank 0 sends its stage an Activation, or from the last stage a StepResult; the other ranks only a failed StepResult.
// Where the stage has expert actors, every rank asks some of them in the middle of each layer that has experts, and
// waits for step_timeout_ms at most (actors/expert_requests.h).
// Steps of another epoch are dropped. An error that a new epoch cannot mend ends the actor.
//
// Where it is the whole of its replica and its device draws tokens, it launches a step and goes back to its mailbox:
// the next one, which may go on with tokens that this one draws, is launched behind it, and a result is sent when the
// device is done with it, or an error after step_timeout_ms.
caf::actor spawn_shard(caf::actor_system& system, ShardOptions options);

}  // namespace troupe
