#pragma once

#include <caf/actor.hpp>
#include <caf/actor_system.hpp>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "actors/root_supervisor.h"
#include "cluster/actor_host.h"
#include "cluster/launch/launcher.h"
#include "cluster/plan.h"
#include "cluster/topology.h"
#include "runtime/base/result.h"
#include "runtime/fabric/fabric.h"

namespace troupe::cluster {

struct RootOptions {
  Topology topology;
  Plan plan;
  std::string secret;
  std::string program;  // path of the troupe command, for the nodes' processes
  std::string log_level = "info";
  std::string log_format = "text";
  bool in_process = false;  // the one node lives in this process
  ClusterEvents events;
};

// The launching side of a running cluster: fabric, launcher and root supervisor. Lives in the first node's network
// namespace, so that every node reaches it as they reach each other.
class Root {
 public:
  // Begins to start the nodes; `events` tell the rest. `system` outlives the root.
  static Result<std::unique_ptr<Root>> start(caf::actor_system& system, RootOptions options);

  // Ends the actors and kills what still runs.
  ~Root();
  Root(const Root&) = delete;
  Root& operator=(const Root&) = delete;

  // Of the root's fabric.
  const std::string& endpoint() const { return fabric_->endpoint(); }

  // Ends the cluster: streams finish within deadline_ms, then every node ends. events.on_drained follows.
  void drain(std::uint64_t deadline_ms);

 private:
  Root(caf::actor_system& system, RootOptions options, std::unique_ptr<fabric::Fabric> fabric,
       std::unique_ptr<Launcher> launcher);

  void start_supervisor();
  Result<std::uint32_t> start_node(const std::string& name, const caf::actor& root);
  Result<std::uint32_t> start_node_in_process(const std::string& name, const caf::actor& root);
  Command command_of(const NodeSpec& node) const;
  void kill_node(const std::string& name);

  caf::actor_system& system_;
  RootOptions options_;
  std::unique_ptr<fabric::Fabric> fabric_;
  ActorHost host_;
  caf::actor supervisor_;       // the root's
  caf::actor node_supervisor_;  // the in-process node's
  std::unique_ptr<Launcher> launcher_;
  std::mutex mutex_;
  std::map<std::string, std::unique_ptr<Process>> processes_;  // by node
};

}  // namespace troupe::cluster
