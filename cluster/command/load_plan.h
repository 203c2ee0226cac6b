#pragma once

#include <optional>
#include <string>

#include "cluster/plan.h"
#include "cluster/topology.h"

namespace troupe::cluster {

struct LoadedPlan {
  Topology topology;
  Plan plan;
};

// Reads a topology file and its model's config, and plans. Prints every finding to standard error; nothing is
// returned if there was an error among them.
std::optional<LoadedPlan> load_plan(const std::string& file);

// The same for a topology made up on the spot.
std::optional<LoadedPlan> plan_topology(Topology topology);

}  // namespace troupe::cluster
