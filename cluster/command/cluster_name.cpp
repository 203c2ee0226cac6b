#include "cluster/command/cluster_name.h"

#include <fmt/format.h>

#include <filesystem>

#include "cluster/topology.h"

namespace troupe::cluster {

std::optional<std::string> cluster_name(const std::string& file_or_name) {
  std::error_code error;
  if (!std::filesystem::exists(file_or_name, error) && file_or_name.find('/') == std::string::npos) {
    return file_or_name;
  }
  const TopologyReading reading = read_topology(file_or_name);
  if (reading.topology) return *reading.topology->cluster;
  for (const Diagnostic& diagnostic : reading.diagnostics) {
    fmt::print(stderr, "{}\n", diagnostic.to_string(file_or_name));
  }
  return std::nullopt;
}

}  // namespace troupe::cluster
