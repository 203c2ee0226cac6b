#include "cluster/command/load_plan.h"

#include <ostream>
#include <utility>

namespace troupe::cluster {

std::optional<LoadedPlan> load_plan(const std::string& file, std::ostream& findings) {
  return load_plan(read_topology(file), file, findings);
}

std::optional<LoadedPlan> load_plan(TopologyReading reading, const std::string& file, std::ostream& findings) {
  std::size_t warnings = 0;
  const auto report = [&](const std::vector<Diagnostic>& diagnostics) {
    for (const Diagnostic& diagnostic : diagnostics) {
      findings << diagnostic.to_string(file) << "\n";
      if (diagnostic.severity == Diagnostic::Severity::kWarning) ++warnings;
    }
  };
  report(reading.diagnostics);
  if (!reading.topology) return std::nullopt;
  Topology& topology = *reading.topology;

  auto model = model::load_config(*topology.model, topology.limits);
  if (!model.ok()) {
    report({{Diagnostic::Severity::kError, topology.model.place, model.error().message}});
    return std::nullopt;
  }
  std::optional<model::ModelConfig> draft;
  if (*topology.speculation.kind == SpeculationSpec::Kind::kDraft) {
    auto read = model::load_config(*topology.speculation.model, topology.limits);
    if (!read.ok()) {
      report({{Diagnostic::Severity::kError, topology.speculation.model.place, "the draft: " + read.error().message}});
      return std::nullopt;
    }
    draft = std::move(*read);
  }
  Planning planning = make_plan(*model, topology, this_machine(topology.names_gpus()), draft ? &*draft : nullptr);
  report(planning.diagnostics);
  if (!planning.plan) return std::nullopt;
  return LoadedPlan{std::move(topology), std::move(*model), std::move(*planning.plan), warnings};
}

}  // namespace troupe::cluster
