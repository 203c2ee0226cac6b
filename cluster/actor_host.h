#pragma once

#include <caf/actor_system.hpp>
#include <memory>

#include "actors/names.h"
#include "actors/shard.h"
#include "actors/supervisor.h"
#include "runtime/base/metrics.h"
#include "runtime/base/result.h"
#include "runtime/collective/group_registry.h"
#include "runtime/fabric/fabric.h"

namespace troupe::cluster {

// What a process needs to be a node of the cluster: makes the actors that its supervisor is asked for, wired to this
// process's fabric. `system` and `fabric` outlive it.
// Thread-safety: its functions are called by the supervisor's thread and by actors; they only read.
class ActorHost {
 public:
  ActorHost(caf::actor_system& system, fabric::Fabric& fabric);

  // The node's supervisor, published. `on_drained` and `on_fatal` as in SupervisorOptions.
  caf::actor start_supervisor(std::function<void()> on_drained, std::function<void(const std::string&)> on_fatal);

  // Handle of an actor anywhere; null when its node is not connected.
  ActorResolver resolver() const;

  // Connects this node's fabric to that of an actor's node; blocks until done or failed.
  Result<void> connect(schema::ActorAddress::Reader address) const;

 private:
  Result<HostedActor> make_actor(schema::Spawn::Reader spawn);
  Result<HostedActor> make_scheduler(schema::Spawn::Reader spawn, const Limits& limits) const;
  Result<HostedActor> make_gateway(schema::Spawn::Reader spawn, const Limits& limits) const;
  CommunicatorFactory communicator_factory(const Limits& limits);

  caf::actor_system& system_;
  fabric::Fabric& fabric_;
  std::shared_ptr<Metrics> metrics_;
  collective::GroupRegistry groups_;
};

// The fabric's view of an address.
fabric::NodeId node_id(schema::NodeId::Reader node);

}  // namespace troupe::cluster
