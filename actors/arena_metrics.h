#pragma once

#include <span>
#include <string>

#include "runtime/base/metrics.h"
#include "runtime/model/arenas.h"

namespace troupe {

// Sets the gauges that show how full the memory of a shard or an expert is.
void measure_arenas(std::span<const model::ArenaLevel> levels, const std::string& actor, const std::string& node,
                    Metrics& metrics);

}  // namespace troupe
