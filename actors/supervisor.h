#pragma once

#include <functional>
#include <string>

#include <caf/actor.hpp>
#include <caf/actor_system.hpp>

#include "runtime/base/result.h"
#include "schema/cluster.capnp.h"

namespace troupe {

// An actor that a node made for its root.
struct HostedActor {
  caf::actor handle;
  std::string detail;          // a line for people, such as the address it serves
  bool answers_spawn = false;  // it does long work first (loading weights) and answers the Spawn itself
};

struct SupervisorOptions {
  // Makes the actor that a Spawn describes. Called on the supervisor's own thread; may block for a moment.
  std::function<Result<HostedActor>(schema::Spawn::Reader)> make_actor;
  // Makes an actor reachable under its name.
  std::function<void(const std::string& name, const caf::actor&)> publish;
  // Connects the node to a peer's fabric endpoint; blocks until connected or failed.
  std::function<Result<void>(schema::ActorAddress::Reader)> connect;
  // Stats of the node's process as a whole. `stats` has no families yet.
  std::function<void(schema::Stats::Builder stats)> write_stats;
  // The root asks this node to end. Called once, after the hosted actors have ended.
  std::function<void()> on_drained;
  // A hosted actor died: the process cannot do its part any more and should end, so that the root starts another.
  std::function<void(const std::string& reason)> on_fatal;
};

// Station 7: one supervisor a node. Makes the actors that the root asks for, connects the node to its peers when the
// root assembles a replica, and ends the process when one of its actors dies: recovery is the root's, by a new
// process with a new incarnation.
//
//   Spawn    -> Spawned
//   Assemble -> Outcome   every peer of the plan is connected
//   Drain    -> Outcome
//   StatsRequest -> Stats
caf::actor spawn_supervisor(caf::actor_system& system, SupervisorOptions options);

}  // namespace troupe
