#pragma once

#include <caf/actor.hpp>
#include <caf/actor_system.hpp>

#include <cstdint>
#include <functional>

#include "runtime/base/result.h"
#include "runtime/engine/engine.h"
#include "schema/address.capnp.h"

namespace troupe {

struct SchedulerOptions {
  std::uint32_t replica = 0;     // whose requests it schedules
  engine::EngineOptions engine;  // with the limits step_timeout_ms and away_wait_ms

  std::string record_file;  // keeps what the engine is told and decides (schema/record.capnp); empty = nothing

  // The handle of an actor that Assemble names; null when its node is not connected. Called on the actor's thread.
  std::function<caf::actor(schema::ActorAddress::Reader)> resolve;
};

// Station 2 of a request: owns the queue, the KV block accounting and the steps of one replica (SchedulerActor in
// actors/interfaces.h). Admits what gateways send, keeps up to engine.pipeline_stages steps in flight to stage 0, with
// engine.lookahead one more, and turns their results into Deltas, one message a step and gateway.
//
// Where engine.uses_draft, it asks the draft that Assemble names for guesses, and goes on without it when there is none
// or it does not answer in time.
//
// Between the loss of a member and the next Assemble it sends no steps: requests in flight have failed, the others
// wait, at most away_wait_ms. A gateway that dies takes its requests along. An event-based actor: never blocks.
// Errors: record_file cannot be made.
Result<caf::actor> spawn_scheduler(caf::actor_system& system, SchedulerOptions options);

}  // namespace troupe
