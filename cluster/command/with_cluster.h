#pragma once

#include <functional>
#include <string>

#include "cluster/cluster_client.h"

namespace troupe::cluster {

// What a verb does in a running cluster: joins the one that the user named (its topology file or its name), does `work`
// there and returns its exit code. Prints why it cannot join, and returns 2 for a wrong file, 1 for a cluster that is
// not there. `verb` stands in log lines of at least `log_level`.
int with_cluster(const std::string& file_or_name, const std::string& verb, const std::string& log_level,
                 const std::function<int(ClusterClient&)>& work);

}  // namespace troupe::cluster
