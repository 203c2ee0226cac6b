#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <caf/actor.hpp>
#include <caf/actor_system.hpp>

#include "actors/names.h"
#include "actors/roster.h"
#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "schema/cluster.capnp.h"

namespace troupe {

// What happens, for whoever shows it to people. Called on the root supervisor's thread; must not block.
struct ClusterEvents {
  std::function<void(const std::string& actor, const std::string& node, const std::string& state,
                     const std::string& detail)>
      on_state;
  std::function<void(const std::string& actor, std::uint64_t bytes, std::uint64_t total_bytes,
                     std::uint64_t elapsed_ns)>
      on_progress;
  // Every replica is assembled; the latest one under this epoch.
  std::function<void(std::uint64_t epoch)> on_ready;
  // The cluster cannot come up: the plan's own fault, so that trying again would change nothing. Called before the
  // cluster was ready for the first time only; later failures are tried again.
  std::function<void(const Error&)> on_failed;
  // Every node has ended after a Drain.
  std::function<void()> on_drained;
};

struct RootSupervisorOptions {
  std::string cluster;
  std::vector<std::string> nodes;
  std::vector<ActorOrder> actors;
  Limits limits;
  // Starts a node's process. Its end must come back to `root` as NodeExited. Returns the process id.
  std::function<Result<std::uint32_t>(const std::string& node, const caf::actor& root)> start_node;
  // Ends a node's process at once (kill -9).
  std::function<void(const std::string& node)> kill_node;
  // Connects to a node's fabric; blocks until connected or failed.
  std::function<Result<void>(schema::ActorAddress::Reader)> connect;
  ActorResolver resolve;
  ClusterEvents events;
};

// The elected root of all supervisors: it alone knows the placement. Starts every node, has every actor made,
// assembles each replica under an epoch; when anything dies it starts it again and assembles the replica that it was
// part of under the next epoch.
//
//   Join                 -> Outcome        a node's process is there
//   LoadProgress
//   Lost                                   from a scheduler: assemble its replica again
//   NodeExited                             from the launcher
//   ClusterStatusRequest -> ClusterStatus
//   Drain                -> Outcome        answered when every node has ended
caf::actor spawn_root_supervisor(caf::actor_system& system, RootSupervisorOptions options);

}  // namespace troupe
