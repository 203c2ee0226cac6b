#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cluster/diagnostic.h"
#include "cluster/topology.h"
#include "runtime/base/device.h"
#include "runtime/model/config.h"

namespace troupe::cluster {

// One shard or expert actor with the place that a complaint about it points at.
struct PlacedShard {
  std::string node;
  Device device;
  Place place;
  std::string reason;  // for people
};

struct PlacedStage {
  std::uint32_t replica = 0;
  std::uint32_t index = 0;  // within its replica
  std::uint32_t first_layer = 0;
  std::uint32_t last_layer = 0;  // exclusive
  Place place;
  std::vector<PlacedShard> shards;   // in rank order
  std::vector<PlacedShard> experts;  // expert actors by their number; empty: the shards have the experts
};

// Where the stages of all replicas lie: as the file says, or as the planner chooses (make_plan in plan.h).
// Errors: layers beyond the model's or missing; nothing to compute on; expert actors for a model that has no experts.
std::vector<PlacedStage> place_stages(const model::ModelConfig& model, const Topology& topology,
                                      Diagnostics& diagnostics);

}  // namespace troupe::cluster
