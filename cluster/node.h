#pragma once

#include <string>

#include "runtime/base/limits.h"

namespace troupe::cluster {

struct NodeOptions {
  std::string name;
  std::string listen = "127.0.0.1:0";  // of the fabric
  std::string root;                    // endpoint of the root's fabric
  std::string secret;                  // of the cluster
  std::string transports;
  Limits limits;
};

// A node's process: fabric up, supervisor, reports to the root, does as told until the root drains it. Ends too when
// the root is gone, when one of its actors dies, and on SIGTERM. Returns the exit code.
// Call from main, before any other thread exists.
int run_node(const NodeOptions& options);

}  // namespace troupe::cluster
