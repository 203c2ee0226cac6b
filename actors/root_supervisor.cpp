#include "actors/root_supervisor.h"

#include <algorithm>
#include <utility>

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

using Node = Roster::Node;
using NodePhase = Roster::NodePhase;
using ActorPhase = Roster::ActorPhase;
using Member = Roster::Member;
using Replica = Roster::Replica;

struct RootState {
  const char* name = "root";
  explicit RootState(caf::stateful_actor<RootState>* self) : self(self) {}

  caf::stateful_actor<RootState>* self;
  RootSupervisorOptions options;
  Roster roster;
  bool was_ready = false;  // every replica at once
  bool draining = false;
  std::vector<caf::typed_response_promise<fabric::Message<schema::Outcome>>> drain_promises;

  // --- nodes ---

  void start_node(const std::string& name) {
    Node& node = roster.nodes.at(name);
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
    Node& node = roster.nodes.at(name);
    node.backoff_ms = node.backoff_ms == 0 ? options.limits.restart_backoff_ms
                                           : std::min(2 * node.backoff_ms, options.limits.restart_backoff_max_ms);
    self->delayed_send(self, std::chrono::milliseconds(node.backoff_ms), StartNode::value, name);
  }

  Result<void> join(schema::Join::Reader join) {
    const std::string name = join.getNode().getName();
    const auto it = roster.nodes.find(name);
    if (it == roster.nodes.end()) return not_found("the plan has no node named " + printable(name));
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
    for (Member& actor : roster.members) {
      if (actor.order.node == name) spawn(actor, node);
    }
    return {};
  }

  void lose_node(const std::string& name, const std::string& reason) {
    Node& node = roster.nodes.at(name);
    const bool was_joined = node.phase == NodePhase::kJoined;
    node.supervisor = nullptr;
    if (!was_joined) return;
    node.phase = NodePhase::kStarting;  // until its process is gone for certain
    if (draining) return;
    spdlog::warn("node {} is lost: {}", name, reason);
    std::vector<std::string> lost;
    for (Member& actor : roster.members) {
      if (actor.order.node != name) continue;
      set_phase(actor, ActorPhase::kLost, reason);
      lost.push_back(actor.order.actor);
      if (actor.order.replica) {
        roster.replicas.at(*actor.order.replica).abandon();
      } else {
        for (auto& [number, replica] : roster.replicas) replica.abandon();
      }
    }
    const auto message = fabric::make_message<schema::Lost>([&](schema::Lost::Builder out) {
      out.setReason(reason);
      auto list = out.initActors(lost.size());
      for (std::size_t i = 0; i < lost.size(); ++i) list.set(i, lost[i]);
    });
    for (const Member& actor : roster.members) {
      const std::string& name = actor.order.actor;
      if (name != kGatewayName && name != scheduler_name(actor.order.replica.value_or(0))) continue;
      if (auto handle = roster.handle_of(name, options.resolve)) self->send(handle, message);
    }
  }

  void node_exited(const std::string& name, const std::string& reason) {
    lose_node(name, reason);
    Node& node = roster.nodes.at(name);
    node.phase = NodePhase::kAbsent;
    if (draining) return finish_drain_if_empty();
    if (!was_ready && node.starts >= kStartAttempts) {
      return options.events.on_failed(unavailable("node " + name + " ended " + std::to_string(node.starts) +
                                                  " times before the cluster was ready; last: " + reason));
    }
    restart_later(name);
  }

  // --- actors ---

  void set_phase(Member& actor, ActorPhase phase, const std::string& detail) {
    actor.phase = phase;
    actor.detail = detail;
    options.events.on_state(actor.order.actor, actor.order.node, to_string(phase), detail);
  }

  void spawn(Member& actor, const Node& node) {
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
    Member& actor = *roster.find(name);
    if (roster.nodes.at(actor.order.node).incarnation != incarnation || actor.phase != ActorPhase::kLoading) return;
    set_phase(actor, ActorPhase::kReady, detail);
    // Not the replicas that it has nothing to do with: they may be in the middle of an assembly.
    for (const auto& [number, replica] : roster.replicas) {
      if (actor.works_with(number)) assemble_if_complete(number);
    }
  }

  // `answered`: the node said so itself. Another start would find the same missing file or taken port.
  void spawn_failed(const std::string& name, std::uint64_t incarnation, Error error, bool answered) {
    const Member& actor = *roster.find(name);
    const Node& node = roster.nodes.at(actor.order.node);
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

  void assemble_if_complete(std::uint32_t replica) {
    if (draining || roster.replicas.at(replica).ready) return;
    if (roster.is_complete(replica)) assemble(replica);
  }

  void assemble(std::uint32_t number) {
    Replica& replica = roster.replicas.at(number);
    replica.abandon();
    replica.epoch = ++roster.epoch;
    const auto message = roster.assemble_message(number);
    assemble_phase(0, {number, replica.assembly}, message);
  }

  struct Attempt {
    std::uint32_t replica;
    std::uint64_t assembly;
  };
  bool is_current(const Attempt& attempt) const {
    return roster.replicas.at(attempt.replica).assembly == attempt.assembly;
  }

  // Shards may wait for NCCL, and then for each other.
  std::chrono::milliseconds assemble_timeout() const {
    return std::chrono::milliseconds(2 * options.limits.connect_timeout_ms + 2 * options.limits.nccl_join_timeout_ms);
  }

  void assemble_phase(std::size_t phase, const Attempt& attempt, const fabric::Message<schema::Assemble>& message) {
    if (phase == Roster::kAssemblyPhases) return assembled(attempt.replica);
    const auto targets = roster.targets_of_phase(phase, attempt.replica, options.resolve);
    if (targets.empty()) return assemble_phase(phase + 1, attempt, message);
    const auto pending = std::make_shared<std::size_t>(targets.size());
    for (const Roster::Target& target : targets) {
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
    Replica& replica = roster.replicas.at(attempt.replica);
    replica.abandon();
    spdlog::warn("epoch {} of replica {} could not be assembled: {}", replica.epoch, attempt.replica, error.message);
    if (!silent_node.empty() && roster.nodes.at(silent_node).phase == NodePhase::kJoined) {
      options.kill_node(silent_node);
    } else {
      self->delayed_send(self, std::chrono::milliseconds(options.limits.restart_backoff_ms), Reassemble::value,
                         attempt.replica, replica.assembly);
    }
  }

  void assembled(std::uint32_t replica) {
    roster.replicas.at(replica).ready = true;
    for (const Member& actor : roster.members) {
      if (actor.works_with(replica)) roster.nodes.at(actor.order.node).backoff_ms = 0;
    }
    if (!roster.all_ready()) return;
    was_ready = true;
    options.events.on_ready(roster.epoch);
  }

  // --- the end ---

  // Clients first: the gateway finishes its streams, which needs everybody else.
  void drain(std::uint32_t deadline_ms) {
    draining = true;
    for (auto& [number, replica] : roster.replicas) replica.abandon();
    self->delayed_send(self, std::chrono::milliseconds(deadline_ms + options.limits.drain_timeout_ms),
                       DrainOver::value);
    drain_actor(kGatewayName, deadline_ms, [this, deadline_ms] {
      const auto left = std::make_shared<std::size_t>(roster.replicas.size());
      for (const auto& [number, replica] : roster.replicas) {
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
    const caf::actor handle = roster.handle_of(name, options.resolve);
    if (!handle) return then();
    // Half a second beyond its own deadline, for cutting off what is left.
    self->request(handle, std::chrono::milliseconds(deadline_ms + 500), drain_message(deadline_ms))
        .then([then](const fabric::Message<schema::Outcome>&) { then(); }, [then](const caf::error&) { then(); });
  }

  void drain_nodes(std::uint32_t deadline_ms) {
    for (auto& [name, node] : roster.nodes) {
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
    for (const auto& [name, node] : roster.nodes) {
      if (node.phase != NodePhase::kAbsent) options.kill_node(name);
    }
  }

  void finish_drain_if_empty() {
    for (const auto& [name, node] : roster.nodes) {
      if (node.phase != NodePhase::kAbsent) return;
    }
    for (auto& promise : drain_promises) promise.deliver(outcome_of({}));
    drain_promises.clear();
    options.events.on_drained();
  }
};

caf::behavior run_root(caf::stateful_actor<RootState>* self, RootSupervisorOptions options) {
  RootState& state = self->state;
  state.options = std::move(options);
  state.roster = Roster(state.options.nodes, std::move(state.options.actors));
  self->set_default_handler(caf::print_and_drop);
  self->set_down_handler([self](const caf::down_msg& down) {
    for (const auto& [name, node] : self->state.roster.nodes) {
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
        const Node& current = self->state.roster.nodes.at(node);
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
        const auto replica = number ? self->state.roster.replicas.find(*number) : self->state.roster.replicas.end();
        if (replica == self->state.roster.replicas.end() || !replica->second.ready) return;
        spdlog::warn("assembling replica {} again: {}", *number, one_line(lost->getReason().cStr()));
        replica->second.ready = false;
        self->state.assemble_if_complete(*number);
      },
      [self](const fabric::Message<schema::NodeExited>& message) {
        const auto exited = message.read();
        const std::string node = exited->getNode();
        const auto it = self->state.roster.nodes.find(node);
        if (it == self->state.roster.nodes.end() || it->second.pid != exited->getPid()) return;
        self->state.node_exited(node, exited->getReason());
      },
      [self](const fabric::Message<schema::ClusterStatusRequest>&) {
        return self->state.roster.status(self->state.options.cluster);
      },
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
