#include "cluster/topology_checks.h"

#include <algorithm>
#include <string>
#include <vector>

#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

class Checker {
 public:
  Checker(Topology& topology, Diagnostics& diagnostics) : topology_(topology), diagnostics_(diagnostics) {}

  void run() {
    check_nodes_reach_each_other();
    check_references();
    check_stages();
  }

 private:
  bool known_node(const Placed<std::string>& wanted) {
    if (topology_.find_node(*wanted) != nullptr) return true;
    std::vector<std::string> names;
    for (const NodeSpec& node : topology_.nodes) {
      if (!node.name->empty()) names.push_back(*node.name);
    }
    diagnostics_.error(wanted.place, "there is no node '" + printable(*wanted) + "'; " + suggestion(*wanted, names));
    return false;
  }

  // Whatever was wrong with a name itself has been said already: empty ones are skipped.
  void check_references() {
    const PlaceSpec& place = topology_.place;
    if (place.gateway && !place.gateway->node->empty()) known_node(place.gateway->node);
    if (place.scheduler && !(*place.scheduler)->empty()) known_node(*place.scheduler);
    for (const StagePlace& stage : place.stages) {
      for (const auto* placed : {&stage.shards, &stage.experts}) {
        for (const Placed<ShardPlace>& shard : *placed) {
          if (known_node({shard->node, shard.place})) check_device(shard->node, {shard->device, shard.place});
        }
      }
    }
    const SpeculationSpec& speculation = topology_.speculation;
    if (speculation.node->empty() || !known_node(speculation.node)) return;
    if (speculation.device) check_device(*speculation.node, *speculation.device);
  }

  // REQUIRES: there is such a node.
  void check_device(const std::string& node_name, const Placed<Device>& wanted) {
    const NodeSpec& node = *topology_.find_node(node_name);
    std::vector<std::string> devices;
    bool found = false;
    for (const Placed<Device>& device : node.devices) {
      found = found || (device->kind == wanted->kind && device->first <= wanted->first && wanted->last <= device->last);
      devices.push_back(device->to_string());
    }
    if (found) return;
    diagnostics_.error(wanted.place,
                       "node '" + *node.name + "' has no device " + wanted->to_string() + "; " +
                           (devices.empty() ? "it has none; give it `devices:`" : "it has " + any_of(devices)));
  }

  // The stages of a replica must cover layers 0, 1, 2, ... without a gap; where the model ends, only the planner knows.
  void check_stages() {
    auto& stages = topology_.place.stages;
    std::stable_sort(stages.begin(), stages.end(),
                     [](const StagePlace& a, const StagePlace& b) { return *a.replica < *b.replica; });
    std::uint32_t next = 0, index = 0, replicas = 0;
    for (const StagePlace& stage : stages) {
      if (!stage.layers_place.known()) return;
      if (*stage.replica > replicas) {
        diagnostics_.error(stage.replica.place,
                           "replica " + std::to_string(replicas) + " has no stages; number the replicas 0, 1, 2, ...");
        return;
      }
      if (*stage.replica == replicas) {
        ++replicas;
        next = index = 0;
      }
      if (stage.first_layer != next) {
        const std::string must = "; stage " + std::to_string(index) + " must begin with layer " + std::to_string(next);
        diagnostics_.error(stage.layers_place, stage.first_layer < next
                                                   ? "layer " + std::to_string(stage.first_layer) +
                                                         " belongs to an earlier stage already" + must
                                                   : "layer " + std::to_string(next) + " belongs to no stage" + must);
      }
      next = std::max(next, stage.last_layer);
      ++index;
    }
    if (!stages.empty()) check_what_is_placed_counts(replicas);
  }

  void check_what_is_placed_counts(std::uint32_t replicas) {
    const auto& stages = topology_.place.stages;
    const ParallelSpec& parallel = topology_.parallel;
    if (parallel.replicas.place.known() && *parallel.replicas != replicas) {
      diagnostics_.warning(parallel.replicas.place, "place.stages has the stages of " + std::to_string(replicas) +
                                                        " replica(s), and what is placed counts");
    }
    if (parallel.pipeline.place.known() && std::uint64_t{*parallel.pipeline} * replicas != stages.size()) {
      diagnostics_.warning(parallel.pipeline.place, "place.stages lists " + std::to_string(stages.size()) +
                                                        " stages, and what is placed counts");
    }
    const bool same = std::all_of(stages.begin(), stages.end(),
                                  [&](const StagePlace& s) { return s.shards.size() == *parallel.tensor; });
    if (parallel.tensor.place.known() && !same) {
      diagnostics_.warning(parallel.tensor.place,
                           "place.stages has stages with another number of shards, and what is placed counts");
    }
    const std::size_t experts = *parallel.expert == 1 ? 0 : *parallel.expert;
    const bool same_experts =
        std::all_of(stages.begin(), stages.end(), [&](const StagePlace& s) { return s.experts.size() == experts; });
    if (parallel.expert.place.known() && !same_experts) {
      diagnostics_.warning(parallel.expert.place,
                           "place.stages has stages with another number of experts, and what is placed counts");
    }
  }

  void check_nodes_reach_each_other() {
    const auto& nodes = topology_.nodes;
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      const NodeSpec& node = nodes[i];
      const bool loopback = node.address->starts_with("127.") || *node.address == "::1";
      const bool others_elsewhere =
          std::any_of(nodes.begin(), nodes.end(), [&](const NodeSpec& other) { return *other.netns != *node.netns; });
      if (loopback && others_elsewhere) {
        diagnostics_.error(node.name.place, "node '" + *node.name + "' listens on " + *node.address +
                                                ", which nodes in another network namespace cannot reach; give it an "
                                                "`address:`");
      }
      for (std::size_t j = 0; j < i; ++j) {
        if (*node.port != 0 && *node.port == *nodes[j].port && *node.address == *nodes[j].address &&
            *node.netns == *nodes[j].netns) {
          diagnostics_.error(node.port.place,
                             "nodes '" + *nodes[j].name + "' and '" + *node.name +
                                 "' have the same address and port; leave `port:` out for any free one");
        }
      }
    }
  }

  Topology& topology_;
  Diagnostics& diagnostics_;
};

}  // namespace

void check_topology(Topology& topology, Diagnostics& diagnostics) { Checker(topology, diagnostics).run(); }

}  // namespace troupe::cluster
