#pragma once

#include "runtime/base/metrics.h"
#include "schema/cluster.capnp.h"

namespace troupe {

// Metric families as they travel between actors. Summaries have no schema and are left out.
void write_families(const MetricFamilies& families, schema::Stats::Builder stats);

// The families of a Stats message. Histograms whose bounds and counts do not match are left out.
MetricFamilies read_families(schema::Stats::Reader stats);

}  // namespace troupe
