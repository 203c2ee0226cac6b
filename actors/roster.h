#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include <caf/actor.hpp>

#include "actors/names.h"
#include "runtime/fabric/message.h"
#include "schema/address.capnp.h"
#include "schema/cluster.capnp.h"

namespace troupe {

// One actor of the plan: where it lives, and the order that makes it.
struct ActorOrder {
  std::string actor;
  std::string node;
  std::string device;
  std::optional<std::uint32_t> replica;  // nothing: every replica works with it
  fabric::Message<schema::Spawn> spawn;
};

// What the root supervisor knows of the nodes, the actors and the replicas, and what follows from it. Plain state: it
// sends nothing and decides nothing. Not thread-safe.
struct Roster {
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

  struct Member {
    ActorOrder order;
    ActorPhase phase = ActorPhase::kStarting;
    std::string detail;

    bool works_with(std::uint32_t replica) const { return !order.replica || *order.replica == replica; }
  };

  // One replica's own life: losses and epochs of the others are none of its business.
  struct Replica {
    std::uint64_t epoch = 0;
    std::uint64_t assembly = 0;  // grows with every attempt: answers to an abandoned one are ignored
    bool ready = false;

    void abandon() {
      ready = false;
      ++assembly;
    }
  };

  // Who learns of a new epoch after whom: connections, then those who serve a step, then those who send one.
  static constexpr std::size_t kAssemblyPhases = 6;
  struct Target {
    std::string node;
    caf::actor handle;  // null: it is away
  };

  Roster() = default;
  Roster(const std::vector<std::string>& node_names, std::vector<ActorOrder> orders);

  // Null if the plan has no such actor.
  Member* find(const std::string& actor);
  // Null while the actor's node is away.
  caf::actor handle_of(const std::string& actor, const ActorResolver& resolve);

  // Whether every actor that the replica works with is ready.
  bool is_complete(std::uint32_t replica) const;
  bool all_ready() const;  // replicas

  std::vector<Target> targets_of_phase(std::size_t phase, std::uint32_t replica, const ActorResolver& resolve);
  fabric::Message<schema::Assemble> assemble_message(std::uint32_t replica) const;
  fabric::Message<schema::ClusterStatus> status(const std::string& cluster) const;

  std::map<std::string, Node> nodes;
  std::vector<Member> members;  // in the order of the plan
  std::map<std::uint32_t, Replica> replicas;
  std::uint64_t epoch = 0;  // the latest of any replica

 private:
  void write_address(const Member& member, schema::ActorAddress::Builder out) const;
};

const char* to_string(Roster::ActorPhase phase);

}  // namespace troupe
