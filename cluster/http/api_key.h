#pragma once

#include <string>

#include "runtime/base/result.h"

namespace troupe::cluster {

// Whether a key can stand in a header: printable ASCII without spaces.
bool is_api_key(const std::string& key);

// The first line of --api-key-file; empty for an empty name. Errors: a file that cannot be read, or whose first line
// is no key.
Result<std::string> read_api_key(const std::string& file);

}  // namespace troupe::cluster
