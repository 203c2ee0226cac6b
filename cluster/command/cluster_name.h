#pragma once

#include <optional>
#include <string>

namespace troupe::cluster {

// What the user named: a topology file, whose cluster name counts, or the name itself. Prints what is wrong with a
// file and returns nothing.
std::optional<std::string> cluster_name(const std::string& file_or_name);

}  // namespace troupe::cluster
