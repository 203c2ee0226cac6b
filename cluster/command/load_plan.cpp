#include "cluster/command/load_plan.h"

#include <fmt/format.h>

#include "runtime/model/config.h"

namespace troupe::cluster {
namespace {

void print(const std::vector<Diagnostic>& diagnostics, const std::string& file) {
  for (const Diagnostic& diagnostic : diagnostics) fmt::print(stderr, "{}\n", diagnostic.to_string(file));
}

}  // namespace

std::optional<LoadedPlan> load_plan(const std::string& file) {
  TopologyReading reading = read_topology(file);
  print(reading.diagnostics, file);
  if (!reading.topology) return std::nullopt;
  return plan_topology(*std::move(reading.topology));
}

std::optional<LoadedPlan> plan_topology(Topology topology) {
  const auto model = model::load_config(*topology.model, topology.limits);
  if (!model.ok()) {
    print({{.place = topology.model.place, .message = model.error().message}}, topology.file);
    return std::nullopt;
  }
  Planning planning = make_plan(*model, topology, this_machine());
  print(planning.diagnostics, topology.file);
  if (!planning.plan) return std::nullopt;
  return LoadedPlan{std::move(topology), *std::move(planning.plan)};
}

}  // namespace troupe::cluster
