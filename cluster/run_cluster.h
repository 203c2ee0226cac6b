#pragma once

#include <string>

#include "cluster/plan.h"
#include "cluster/topology.h"

namespace troupe::cluster {

struct RunOptions {
  Topology topology;
  Plan plan;
  std::string program;  // path of the troupe command
  std::string log_level = "info";
  std::string log_format = "text";
  bool in_process = false;  // `troupe serve`: the one node lives in this process
  int ready_fd = -1;        // a line "ready" or the error is written here, for a detached start
};

// Runs a cluster until it is drained (Ctrl-C, SIGTERM, `troupe down`) or cannot come up. A second Ctrl-C cuts the
// draining short. Returns the exit code. Call from main, before any other thread exists.
int run_cluster(RunOptions options);

}  // namespace troupe::cluster
