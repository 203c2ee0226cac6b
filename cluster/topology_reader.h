#pragma once

#include <optional>

#include "cluster/diagnostic.h"
#include "cluster/document.h"
#include "cluster/topology.h"

namespace troupe::cluster {

// Turns the tree of a topology file into a Topology: keys, types, ranges, names that refer to each other. Goes on
// after a mistake, so that one run reports them all; what it returns is usable only if there was no error.
// `file` names the file in messages and, without its folder and ending, is the default of `cluster`.
Topology read_tree(const DocumentNode& root, std::string_view file, Diagnostics& diagnostics);

}  // namespace troupe::cluster
