#pragma once

#include <caf/actor.hpp>
#include <caf/actor_system.hpp>
#include <chrono>
#include <memory>
#include <string>

#include "cluster/run_state.h"
#include "runtime/base/result.h"
#include "runtime/fabric/fabric.h"
#include "runtime/fabric/message.h"
#include "schema/cluster.capnp.h"

namespace troupe::cluster {

// Joins a running cluster as a guest: for `troupe status`, `troupe down` and experiments. A guest has a fabric of its
// own and can talk to every actor, but nobody depends on it.
class ClusterClient {
 public:
  // `cluster`: the name in the topology file. `system` outlives the client.
  // Errors: no such cluster runs, or its root does not answer.
  static Result<std::unique_ptr<ClusterClient>> join(caf::actor_system& system, const std::string& cluster);

  const RunState& state() const { return state_; }

  // Who runs where.
  Result<fabric::Message<schema::ClusterStatus>> status();

  // The handle of an actor, by the name under which the cluster lists it.
  Result<caf::actor> find(const std::string& actor);

  // Ends the cluster; returns when every node has ended.
  Result<void> drain(std::chrono::milliseconds deadline);

 private:
  ClusterClient(caf::actor_system& system, RunState state) : system_(system), state_(std::move(state)) {}

  caf::actor_system& system_;
  RunState state_;
  std::unique_ptr<fabric::Fabric> fabric_;
  caf::actor root_;
};

}  // namespace troupe::cluster
