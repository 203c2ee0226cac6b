#pragma once

#include <string>

#include "runtime/base/result.h"

namespace troupe::cluster {

// The environment variable that hands the secret to a node's process.
inline constexpr const char* kSecretVariable = "TROUPE_CLUSTER_SECRET";

// The cluster's secret: the first line of `file` if it is not empty, else the environment's, else 256 fresh random
// bits. Errors: a file that cannot be read, that others may read, or whose secret is shorter than 16 bytes.
Result<std::string> cluster_secret(const std::string& file);

}  // namespace troupe::cluster
