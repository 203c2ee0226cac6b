#include "actors/roster.h"

#include <algorithm>
#include <array>
#include <set>
#include <utility>

namespace troupe {

const char* to_string(Roster::ActorPhase phase) {
  switch (phase) {
    case Roster::ActorPhase::kStarting: return "starting";
    case Roster::ActorPhase::kLoading: return "loading";
    case Roster::ActorPhase::kReady: return "ready";
    case Roster::ActorPhase::kLost: return "lost";
  }
  return "unknown";
}

Roster::Roster(const std::vector<std::string>& node_names, std::vector<ActorOrder> orders) {
  for (const std::string& node : node_names) nodes[node];
  for (ActorOrder& order : orders) {
    if (order.replica) replicas[*order.replica];
    members.push_back({.order = std::move(order), .detail = {}});
  }
}

Roster::Member* Roster::find(const std::string& actor) {
  const auto it =
      std::find_if(members.begin(), members.end(), [&](const Member& member) { return member.order.actor == actor; });
  return it == members.end() ? nullptr : &*it;
}

void Roster::write_address(const Member& member, schema::ActorAddress::Builder out) const {
  const Node& node = nodes.at(member.order.node);
  out.initNode().setName(member.order.node);
  out.getNode().setIncarnation(node.incarnation);
  out.setActor(member.order.actor);
  out.setEndpoint(node.endpoint);
}

caf::actor Roster::handle_of(const std::string& actor, const ActorResolver& resolve) {
  const Member* member = find(actor);
  if (member == nullptr || nodes.at(member->order.node).phase != NodePhase::kJoined) return nullptr;
  const auto address = fabric::make_message<schema::ActorAddress>(
      [&](schema::ActorAddress::Builder out) { write_address(*member, out); });
  return resolve(*address.read());
}

bool Roster::is_complete(std::uint32_t replica) const {
  return std::all_of(members.begin(), members.end(), [&](const Member& member) {
    return !member.works_with(replica) || member.phase == ActorPhase::kReady;
  });
}

bool Roster::all_ready() const {
  return std::all_of(replicas.begin(), replicas.end(), [](const auto& entry) { return entry.second.ready; });
}

std::vector<Roster::Target> Roster::targets_of_phase(std::size_t phase, std::uint32_t replica,
                                                     const ActorResolver& resolve) {
  static const std::array<std::string, kAssemblyPhases> prefixes = {"",       "expert/",    "shard/",
                                                                    "stage/", "scheduler/", kGatewayName};
  std::vector<Target> targets;
  std::set<std::string> seen;
  for (const Member& member : members) {
    const std::string& node = member.order.node;
    if (!member.works_with(replica)) continue;
    if (phase == 0) {
      if (seen.insert(node).second) targets.push_back({node, nodes.at(node).supervisor});
    } else if (member.order.actor.starts_with(prefixes[phase])) {
      targets.push_back({node, handle_of(member.order.actor, resolve)});
    }
  }
  return targets;
}

fabric::Message<schema::Assemble> Roster::assemble_message(std::uint32_t replica) const {
  std::vector<const Member*> present;
  for (const Member& member : members) {
    if (member.works_with(replica)) present.push_back(&member);
  }
  return fabric::make_message<schema::Assemble>([&](schema::Assemble::Builder out) {
    out.setReplica(replica);
    out.setEpoch(replicas.at(replica).epoch);
    auto list = out.initActors(present.size());
    for (std::size_t i = 0; i < present.size(); ++i) write_address(*present[i], list[i]);
  });
}

fabric::Message<schema::ClusterStatus> Roster::status(const std::string& cluster) const {
  return fabric::make_message<schema::ClusterStatus>([&](schema::ClusterStatus::Builder out) {
    out.setCluster(cluster);
    out.setEpoch(epoch);
    out.setReady(all_ready());
    auto list = out.initActors(members.size());
    for (std::size_t i = 0; i < members.size(); ++i) {
      const Member& member = members[i];
      const Node& node = nodes.at(member.order.node);
      list[i].setActor(member.order.actor);
      list[i].setNode(member.order.node);
      list[i].setPid(node.pid);
      list[i].setDevice(member.order.device);
      list[i].setState(to_string(member.phase));
      list[i].setDetail(member.detail);
      list[i].setRestarts(node.starts == 0 ? 0 : node.starts - 1);
      list[i].setEndpoint(node.endpoint);
      list[i].setIncarnation(node.incarnation);
    }
  });
}

}  // namespace troupe
