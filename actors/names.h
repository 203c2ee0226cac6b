#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include <caf/actor.hpp>

#include "schema/address.capnp.h"

namespace troupe {

// The names under which actors are published; unique in a cluster.
inline const std::string kGatewayName = "gateway";
inline const std::string kRootSupervisorName = "root";    // on the node that launched the cluster
inline const std::string kSupervisorName = "supervisor";  // one on every node

inline std::string scheduler_name(std::uint32_t replica) { return "scheduler/" + std::to_string(replica); }

// Of the small model that guesses for the replica's own.
inline std::string draft_name(std::uint32_t replica) { return "draft/" + std::to_string(replica); }

inline std::string stage_name(std::uint32_t replica, std::uint32_t stage) {
  return "stage/" + std::to_string(replica) + "/" + std::to_string(stage);
}

inline std::string shard_name(std::uint32_t replica, std::uint32_t stage, std::uint32_t rank) {
  return "shard/" + std::to_string(replica) + "/" + std::to_string(stage) + "/" + std::to_string(rank);
}

inline std::string expert_name(std::uint32_t replica, std::uint32_t stage, std::uint32_t expert) {
  return "expert/" + std::to_string(replica) + "/" + std::to_string(stage) + "/" + std::to_string(expert);
}

// The replica that "scheduler/1", "stage/1/0" or the like is part of; nothing for a gateway or a supervisor.
std::optional<std::uint32_t> replica_of(std::string_view actor);

// Turns an address into a handle, or a null handle when that node is not connected. The node process injects one
// that asks the fabric; tests inject their own.
using ActorResolver = std::function<caf::actor(const schema::ActorAddress::Reader&)>;

}  // namespace troupe
