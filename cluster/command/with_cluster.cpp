#include "cluster/command/with_cluster.h"

#include <fmt/format.h>

#include <caf/all.hpp>

#include "cluster/command/cluster_name.h"
#include "runtime/base/log.h"

namespace troupe::cluster {

int with_cluster(const std::string& file_or_name, const std::string& verb, const std::string& log_level,
                 const std::function<int(ClusterClient&)>& work) {
  const auto name = cluster_name(file_or_name);
  if (!name) return 2;
  if (auto logging = start_logging(verb, log_level, "text"); !logging.ok()) return 2;
  caf::actor_system_config config;
  fabric::configure(config);
  caf::actor_system system(config);
  auto client = ClusterClient::join(system, *name);
  if (!client.ok()) {
    fmt::print(stderr, "troupe: {}\n", client.error().message);
    return 1;
  }
  return work(**client);
}

}  // namespace troupe::cluster
