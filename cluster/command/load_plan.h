#pragma once

#include <iosfwd>
#include <optional>
#include <string>

#include "cluster/plan.h"
#include "cluster/topology.h"
#include "runtime/model/config.h"

namespace troupe::cluster {

// A topology that is right, suits its model and this machine, and is planned.
struct LoadedPlan {
  Topology topology;
  model::ModelConfig model;
  Plan plan;
  std::size_t warnings = 0;
};

// Reads a topology file and its model's config, and plans. Everything found on the way, warnings too, goes to
// `findings`, a line each; returns nothing if there was an error among it.
std::optional<LoadedPlan> load_plan(const std::string& file, std::ostream& findings);

// The same for a topology that was read already or made up on the spot.
std::optional<LoadedPlan> load_plan(TopologyReading reading, const std::string& file, std::ostream& findings);

}  // namespace troupe::cluster
