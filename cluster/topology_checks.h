#pragma once

#include "cluster/diagnostic.h"
#include "cluster/topology.h"

namespace troupe::cluster {

// Whether the parts of a topology, each of which has been read, suit each other: names refer to nodes and devices of
// the file, nodes can reach each other, the stages of a replica hold layers without gap or overlap. Sorts the stages by
// replica. Whatever was wrong with a part by itself has been said already.
void check_topology(Topology& topology, Diagnostics& diagnostics);

}  // namespace troupe::cluster
