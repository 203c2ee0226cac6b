#pragma once

#include <string>

#include "runtime/base/metrics.h"
#include "runtime/fabric/fabric.h"

namespace troupe::cluster {

// A fabric's counters as metric families, labelled with the node.
MetricFamilies fabric_families(const fabric::FabricStats& stats, const std::string& node);

}  // namespace troupe::cluster
