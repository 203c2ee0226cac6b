#pragma once

#include <cstdint>
#include <string>

#include "runtime/base/metrics.h"
#include "runtime/fabric/message.h"
#include "schema/cluster.capnp.h"

namespace troupe {

// Metric families as they travel between actors. Summaries have no schema and are left out.
void write_families(const MetricFamilies& families, schema::Stats::Builder stats);

// The answer of an actor to StatsRequest.
fabric::Message<schema::Stats> stats_of(const std::string& actor, const std::string& node, std::uint64_t incarnation,
                                        const Metrics& metrics);

// The families of a Stats message. Histograms whose bounds and counts do not match are left out.
MetricFamilies read_families(schema::Stats::Reader stats);

}  // namespace troupe
