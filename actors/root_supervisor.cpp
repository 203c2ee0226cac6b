#include "actors/root_supervisor.h"

#include <algorithm>
#include <map>
#include <set>

#include <caf/all.hpp>

#include "actors/outcome.h"
#include "runtime/base/log.h"
#include "runtime/engine/error_info.h"

namespace troupe {
namespace {

using StartNode = caf::atom_constant<caf::atom("start_node")>;
using JoinCheck = caf::atom_constant<caf::atom("join_check")>;
using Reassemble = caf::atom_constant<caf::atom("assemble")>;
using DrainOver = caf::atom_constant<caf::atom("drain_over")>;

// Before the first readiness a node may fail this often before the whole start is given up.
constexpr std::uint32_t kStartAttempts = 3;

enum class NodePhase { kAbsent, kStarting, kJoined };

struct Node {
  NodePhase phase = NodePhase::kAbsent;
  std::uint32_t pid = 0;
  std::uint32_t starts = 0;
  std::uint64_t backoff_ms = 0;
  std::string endpoint;
  std::uint64_t incarnation = 0;
  caf::actor supervisor;
};

enum class ActorPhase { kStarting, kLoading, kReady, kLost };

const char* to_string(ActorPhase phase) {
  switch (phase) {
    case ActorPhase::kStarting: return "starting";
    case ActorPhase::kLoading: return "loading";
    case ActorPhase::kReady: return "ready";
    case ActorPhase::kLost: return "lost";
  }
  return "unknown";
}

struct PlacedActor {
  ActorOrder order;
  ActorPhase phase = ActorPhase::kStarting;
  std::string detail;
};

// One replica's own life: losses and epochs of the others are none of its business.
struct Replica {
  std::uint64_t epoch = 0;
  std::uint64_t assembly = 0;  // grows with every attempt: answers to an abandoned one are ignored
  bool ready = false;
};

struct RootState {
  const char* name = "root";
  explicit RootState(caf::stateful_actor<RootState>* self) : self(self) {}

  caf::stateful_actor<RootState>* self;
  RootSupervisorOptions options;
  std::map<std::string, Node> nodes;
  std::vector<PlacedActor> actors;
  std::map<std::uint32_t, Replica> replicas;
  std::uint64_t epoch = 0;  // the latest of any replica
  bool was_ready = false;   // every replica at once
  bool draining = false;
  std::vector<caf::typed_response_promise<fabric::Message<schema::Outcome>>> drain_promises;

  // --- nodes ---

  void start_node(const std::string& name) {
    Node& node = nodes.at(name);
    if (draining || node.phase != NodePhase::kAbsent) return;
    ++node.starts;
    auto pid = options.start_node(name, self);
    if (!pid.ok()) {
      if (!was_ready) return options.events.on_failed(std::move(pid).error());
      spdlog::error("node {} cannot be started: {}", name, pid.error().message);
      return restart_later(name);
    }
    node.pid = *pid;
    node.phase = NodePhase::kStarting;
    self->delayed_send(self, std::chrono::milliseconds(options.limits.join_timeout_ms), JoinCheck::value, name,
                       node.starts);
  }

  void restart_later(const std::string& name) {
    Node& node = nodes.at(name);
    node.backoff_ms = node.backoff_ms == 0 ? options.limits.restart_backoff_ms
                                           : std::min(2 * node.backoff_ms, options.limits.restart_backoff_max_ms);
    self->delayed_send(self, std::chrono::milliseconds(node.backoff_ms), StartNode::value, name);
  }

  Result<void> join(schema::Join::Reader join) {
    const std::string name = join.getNode().getName();
    const auto it = nodes.find(name);
    if (it == nodes.end()) return not_found("the plan has no node named " + printable(name));
    Node& node = it->second;
    if (draining) return unavailable("the cluster is going down");
    if (node.phase != NodePhase::kStarting) {
      return unavailable("node " + name + " was not expected now: another process has its place");
    }
    const auto address = fabric::make_message<schema::ActorAddress>([&](schema::ActorAddress::Builder out) {
      out.setNode(join.getNode());
      out.setActor(kSupervisorName);
      out.setEndpoint(join.getEndpoint());
    });
    TROUPE_RETURN_IF_ERROR(options.connect(*address.read()));
    node.supervisor = options.resolve(*address.read());
    if (!node.supervisor) return unavailable("the supervisor of node " + name + " cannot be reached");
    node.phase = NodePhase::kJoined;
    node.endpoint = join.getEndpoint();
    node.incarnation = join.getNode().getIncarnation();
    self->monitor(node.supervisor);
    for (PlacedActor& actor : actors) {
      if (actor.order.node == name) spawn(actor, node);
    }
    return {};
  }

  void lose_node(const std::string& name, const std::string& reason) {
    Node& node = nodes.at(name);
    const bool was_joined = node.phase == NodePhase::kJoined;
    node.supervisor = nullptr;
    if (!was_joined) return;
    node.phase = NodePhase::kStarting;  // until its process is gone for certain
    if (draining) return;
    spdlog::warn("node {} is lost: {}", name, reason);
    std::vector<std::string> lost;
    for (PlacedActor& actor : actors) {
      if (actor.order.node != name) continue;
      set_phase(actor, ActorPhase::kLost, reason);
      lost.push_back(actor.order.actor);
      if (actor.order.replica) {
        abandon(replicas.at(*actor.order.replica));
      } else {
        for (auto& [number, replica] : replicas) abandon(replica);
      }
    }
    const auto message = fabric::make_message<schema::Lost>([&](schema::Lost::Builder out) {
      out.setReason(reason);
      auto list = out.initActors(lost.size());
      for (std::size_t i = 0; i < lost.size(); ++i) list.set(i, lost[i]);
    });
    for (const PlacedActor& actor : actors) {
      const std::string& name = actor.order.actor;
      if (name != kGatewayName && name != scheduler_name(actor.order.replica.value_or(0))) continue;
      if (auto handle = handle_of(name)) self->send(handle, message);
    }
  }

  static void abandon(Replica& replica) {
    replica.ready = false;
    ++replica.assembly;
  }

  void node_exited(const std::string& name, const std::string& reason) {
    lose_node(name, reason);
    Node& node = nodes.at(name);
    node.phase = NodePhase::kAbsent;
    if (draining) return finish_drain_if_empty();
    if (!was_ready && node.starts >= kStartAttempts) {
      return options.events.on_failed(unavailable("node " + name + " ended " + std::to_string(node.starts) +
                                                  " times before the cluster was ready; last: " + reason));
    }
    restart_later(name);
  }

  // --- actors ---

  void set_phase(PlacedActor& actor, ActorPhase phase, const std::string& detail) {
    actor.phase = phase;
    actor.detail = detail;
    options.events.on_state(actor.order.actor, actor.order.node, to_string(phase), detail);
  }

  PlacedActor* find_actor(const std::string& name) {
    const auto it =
        std::find_if(actors.begin(), actors.end(), [&](const PlacedActor& actor) { return actor.order.actor == name; });
    return it == actors.end() ? nullptr : &*it;
  }

  void write_address(const PlacedActor& actor, schema::ActorAddress::Builder out) const {
    const Node& node = nodes.at(actor.order.node);
    out.initNode().setName(actor.order.node);
    out.getNode().setIncarnation(node.incarnation);
    out.setActor(actor.order.actor);
    out.setEndpoint(node.endpoint);
  }

  // Null while the actor's node is away.
  caf::actor handle_of(const std::string& name) {
    const PlacedActor* actor = find_actor(name);
    if (actor == nullptr || nodes.at(actor->order.node).phase != NodePhase::kJoined) return nullptr;
    const auto address = fabric::make_message<schema::ActorAddress>(
        [&](schema::ActorAddress::Builder out) { write_address(*actor, out); });
    return options.resolve(*address.read());
  }

  void spawn(PlacedActor& actor, const Node& node) {
    set_phase(actor, ActorPhase::kLoading, "");
    const std::string name = actor.order.actor;
    const std::uint64_t incarnation = node.incarnation;
    self->request(node.supervisor, std::chrono::milliseconds(options.limits.spawn_timeout_ms), actor.order.spawn)
        .then(
            [this, name, incarnation](const fabric::Message<schema::Spawned>& message) {
              const auto spawned = message.read();
              if (spawned->isError()) {
                spawn_failed(name, incarnation, engine::read_error(spawned->getError()), true);
              } else {
                spawn_succeeded(name, incarnation, spawned->getReady().getDetail());
              }
            },
            [this, name, incarnation](const caf::error& error) {
              spawn_failed(name, incarnation, unavailable("no answer: " + self->system().render(error)), false);
            });
  }

  void spawn_succeeded(const std::string& name, std::uint64_t incarnation, const std::string& detail) {
    PlacedActor& actor = *find_actor(name);
    if (nodes.at(actor.order.node).incarnation != incarnation || actor.phase != ActorPhase::kLoading) return;
    set_phase(actor, ActorPhase::kReady, detail);
    // Not the replicas that it has nothing to do with: they may be in the middle of an assembly.
    for (const auto& [number, replica] : replicas) {
      if (works_with(actor, number)) assemble_if_complete(number);
    }
  }

  // `answered`: the node said so itself. Another start would find the same missing file or taken port.
  void spawn_failed(const std::string& name, std::uint64_t incarnation, Error error, bool answered) {
    const PlacedActor& actor = *find_actor(name);
    const Node& node = nodes.at(actor.order.node);
    // An actor whose node has died is counted with the node.
    if (draining || node.incarnation != incarnation || node.phase != NodePhase::kJoined) return;
    const std::string place = name + " on node " + actor.order.node;
    if (!was_ready && answered) {
      return options.events.on_failed(std::move(error).within(place));
    }
    spdlog::error("{}: {}", place, error.message);
    options.kill_node(actor.order.node);
  }

  // --- assembly ---

  struct Target {
    std::string node;
    caf::actor handle;
  };

  static bool works_with(const PlacedActor& actor, std::uint32_t replica) {
    return !actor.order.replica || *actor.order.replica == replica;
  }

  // Who learns of a new epoch after whom: connections, then those who serve a step, then those who send one.
  std::vector<Target> targets_of_phase(std::size_t phase, std::uint32_t replica) {
    static const std::vector<std::string> prefixes = {"", "shard/", "stage/", "scheduler/", kGatewayName};
    std::vector<Target> targets;
    if (phase >= prefixes.size()) return targets;
    std::set<std::string> seen;
    for (const PlacedActor& actor : actors) {
      const std::string& node = actor.order.node;
      if (!works_with(actor, replica)) continue;
      if (phase == 0) {
        if (seen.insert(node).second) targets.push_back({node, nodes.at(node).supervisor});
      } else if (actor.order.actor.starts_with(prefixes[phase])) {
        targets.push_back({node, handle_of(actor.order.actor)});
      }
    }
    return targets;
  }

  void assemble_if_complete(std::uint32_t replica) {
    if (draining || replicas.at(replica).ready) return;
    if (std::all_of(actors.begin(), actors.end(), [&](const PlacedActor& actor) {
          return !works_with(actor, replica) || actor.phase == ActorPhase::kReady;
        })) {
      assemble(replica);
    }
  }

  void assemble(std::uint32_t number) {
    Replica& replica = replicas.at(number);
    abandon(replica);
    replica.epoch = ++epoch;
    std::vector<const PlacedActor*> members;
    for (const PlacedActor& actor : actors) {
      if (works_with(actor, number)) members.push_back(&actor);
    }
    const auto message = fabric::make_message<schema::Assemble>([&](schema::Assemble::Builder out) {
      out.setReplica(number);
      out.setEpoch(replica.epoch);
      auto list = out.initActors(members.size());
      for (std::size_t i = 0; i < members.size(); ++i) write_address(*members[i], list[i]);
    });
    assemble_phase(0, {number, replica.assembly}, message);
  }

  struct Attempt {
    std::uint32_t replica;
    std::uint64_t assembly;
  };
  bool is_current(const Attempt& attempt) const { return replicas.at(attempt.replica).assembly == attempt.assembly; }

  // Shards may wait for NCCL, and then for each other.
  std::chrono::milliseconds assemble_timeout() const {
    return std::chrono::milliseconds(2 * options.limits.connect_timeout_ms + 2 * options.limits.nccl_join_timeout_ms);
  }

  void assemble_phase(std::size_t phase, const Attempt& attempt, const fabric::Message<schema::Assemble>& message) {
    const auto targets = targets_of_phase(phase, attempt.replica);
    if (targets.empty()) return assembled(attempt.replica);
    const auto pending = std::make_shared<std::size_t>(targets.size());
    for (const Target& target : targets) {
      if (!target.handle) return assembly_failed(attempt, unavailable("node " + target.node + " is away"), "");
      const std::string node = target.node;
      self->request(target.handle, assemble_timeout(), message)
          .then(
              [this, attempt, pending, phase, message](const fabric::Message<schema::Outcome>& outcome) {
                if (!is_current(attempt)) return;
                if (auto result = read_outcome(outcome); !result.ok()) {
                  return assembly_failed(attempt, std::move(result).error(), "");
                }
                if (--*pending == 0) assemble_phase(phase + 1, attempt, message);
              },
              [this, attempt, node](const caf::error& error) {
                assembly_failed(attempt, unavailable("no answer: " + self->system().render(error)), node);
              });
    }
  }

  // `silent_node`: the node that did not answer, or empty.
  void assembly_failed(const Attempt& attempt, const Error& error, const std::string& silent_node) {
    if (!is_current(attempt) || draining) return;
    Replica& replica = replicas.at(attempt.replica);
    abandon(replica);
    spdlog::warn("epoch {} of replica {} could not be assembled: {}", replica.epoch, attempt.replica, error.message);
    if (!silent_node.empty() && nodes.at(silent_node).phase == NodePhase::kJoined) {
      options.kill_node(silent_node);
    } else {
      self->delayed_send(self, std::chrono::milliseconds(options.limits.restart_backoff_ms), Reassemble::value,
                         attempt.replica, replica.assembly);
    }
  }

  bool all_ready() const {
    return std::all_of(replicas.begin(), replicas.end(), [](const auto& entry) { return entry.second.ready; });
  }

  void assembled(std::uint32_t replica) {
    replicas.at(replica).ready = true;
    for (const PlacedActor& actor : actors) {
      if (works_with(actor, replica)) nodes.at(actor.order.node).backoff_ms = 0;
    }
    if (!all_ready()) return;
    was_ready = true;
    options.events.on_ready(epoch);
  }

  // --- the end ---

  // Clients first: the gateway finishes its streams, which needs everybody else.
  void drain(std::uint32_t deadline_ms) {
    draining = true;
    for (auto& [number, replica] : replicas) abandon(replica);
    self->delayed_send(self, std::chrono::milliseconds(deadline_ms + options.limits.drain_timeout_ms),
                       DrainOver::value);
    drain_actor(kGatewayName, deadline_ms, [this, deadline_ms] {
      const auto left = std::make_shared<std::size_t>(replicas.size());
      for (const auto& [number, replica] : replicas) {
        drain_actor(scheduler_name(number), deadline_ms, [this, left, deadline_ms] {
          if (--*left == 0) drain_nodes(deadline_ms);
        });
      }
    });
  }

  static fabric::Message<schema::Drain> drain_message(std::uint32_t deadline_ms) {
    return fabric::make_message<schema::Drain>([&](schema::Drain::Builder out) { out.setDeadlineMs(deadline_ms); });
  }

  void drain_actor(const std::string& name, std::uint32_t deadline_ms, std::function<void()> then) {
    const caf::actor handle = handle_of(name);
    if (!handle) return then();
    // Half a second beyond its own deadline, for cutting off what is left.
    self->request(handle, std::chrono::milliseconds(deadline_ms + 500), drain_message(deadline_ms))
        .then([then](const fabric::Message<schema::Outcome>&) { then(); }, [then](const caf::error&) { then(); });
  }

  void drain_nodes(std::uint32_t deadline_ms) {
    for (auto& [name, node] : nodes) {
      if (node.phase == NodePhase::kJoined) {
        // Its end comes back as NodeExited, whatever it answers.
        self->request(node.supervisor, caf::infinite, drain_message(deadline_ms))
            .then([](const fabric::Message<schema::Outcome>&) {}, [](const caf::error&) {});
      } else if (node.phase == NodePhase::kStarting) {
        options.kill_node(name);
      }
    }
    finish_drain_if_empty();
  }

  void kill_rest() {
    for (const auto& [name, node] : nodes) {
      if (node.phase != NodePhase::kAbsent) options.kill_node(name);
    }
  }

  void finish_drain_if_empty() {
    for (const auto& [name, node] : nodes) {
      if (node.phase != NodePhase::kAbsent) return;
    }
    for (auto& promise : drain_promises) promise.deliver(outcome_of({}));
    drain_promises.clear();
    options.events.on_drained();
  }

  fabric::Message<schema::ClusterStatus> status() const {
    return fabric::make_message<schema::ClusterStatus>([&](schema::ClusterStatus::Builder out) {
      out.setCluster(options.cluster);
      out.setEpoch(epoch);
      out.setReady(all_ready());
      auto list = out.initActors(actors.size());
      for (std::size_t i = 0; i < actors.size(); ++i) {
        const PlacedActor& actor = actors[i];
        const Node& node = nodes.at(actor.order.node);
        list[i].setActor(actor.order.actor);
        list[i].setNode(actor.order.node);
        list[i].setPid(node.pid);
        list[i].setDevice(actor.order.device);
        list[i].setState(to_string(actor.phase));
        list[i].setDetail(actor.detail);
        list[i].setRestarts(node.starts == 0 ? 0 : node.starts - 1);
        list[i].setEndpoint(node.endpoint);
        list[i].setIncarnation(node.incarnation);
      }
    });
  }
};

caf::behavior run_root(caf::stateful_actor<RootState>* self, RootSupervisorOptions options) {
  RootState& state = self->state;
  state.options = std::move(options);
  for (const std::string& node : state.options.nodes) state.nodes[node];
  for (ActorOrder& actor : state.options.actors) {
    if (actor.replica) state.replicas[*actor.replica];
    state.actors.push_back({std::move(actor)});
  }
  self->set_default_handler(caf::print_and_drop);
  self->set_down_handler([self](const caf::down_msg& down) {
    for (const auto& [name, node] : self->state.nodes) {
      if (!node.supervisor || node.supervisor.address() != down.source) continue;
      const std::string lost = name;
      self->state.lose_node(lost, "its connection is gone");
      if (!self->state.draining) self->state.options.kill_node(lost);
      return;
    }
  });
  for (const std::string& node : state.options.nodes) self->send(self, StartNode::value, node);

  return {
      [self](StartNode, const std::string& node) { self->state.start_node(node); },
      [self](JoinCheck, const std::string& node, std::uint32_t start) {
        const Node& current = self->state.nodes.at(node);
        if (current.phase == NodePhase::kStarting && current.starts == start) {
          spdlog::error("node {} has not reported in time", node);
          self->state.options.kill_node(node);
        }
      },
      [self](Reassemble, std::uint32_t replica, std::uint64_t assembly) {
        if (self->state.is_current({replica, assembly})) self->state.assemble_if_complete(replica);
      },
      [self](DrainOver) { self->state.kill_rest(); },
      [self](const fabric::Message<schema::Join>& message) { return outcome_of(self->state.join(*message.read())); },
      [self](const fabric::Message<schema::LoadProgress>& message) {
        const auto progress = message.read();
        self->state.options.events.on_progress(progress->getActor(), progress->getBytes(), progress->getTotalBytes(),
                                               progress->getElapsedNs());
      },
      [self](const fabric::Message<schema::Lost>& message) {
        const auto lost = message.read();
        if (self->state.draining || lost->getActors().size() == 0) return;
        const auto number = replica_of(lost->getActors()[0].cStr());
        const auto replica = number ? self->state.replicas.find(*number) : self->state.replicas.end();
        if (replica == self->state.replicas.end() || !replica->second.ready) return;
        spdlog::warn("assembling replica {} again: {}", *number, one_line(lost->getReason().cStr()));
        replica->second.ready = false;
        self->state.assemble_if_complete(*number);
      },
      [self](const fabric::Message<schema::NodeExited>& message) {
        const auto exited = message.read();
        const std::string node = exited->getNode();
        const auto it = self->state.nodes.find(node);
        if (it == self->state.nodes.end() || it->second.pid != exited->getPid()) return;
        self->state.node_exited(node, exited->getReason());
      },
      [self](const fabric::Message<schema::ClusterStatusRequest>&) { return self->state.status(); },
      [self](const fabric::Message<schema::Drain>& message) {
        auto promise = self->make_response_promise<fabric::Message<schema::Outcome>>();
        self->state.drain_promises.push_back(promise);
        if (!self->state.draining) self->state.drain(message.read()->getDeadlineMs());
        return promise;
      },
  };
}

}  // namespace

caf::actor spawn_root_supervisor(caf::actor_system& system, RootSupervisorOptions options) {
  return system.spawn<caf::detached>(run_root, std::move(options));
}

}  // namespace troupe
