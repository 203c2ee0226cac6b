#pragma once

#include <cstdint>

#include "cluster/diagnostic.h"
#include "cluster/document.h"
#include "cluster/topology.h"

namespace troupe::cluster {

// Most of what a topology file may ask for, so that nothing that is sized by it overflows.
inline constexpr std::uint32_t kMaxStages = 1024;
inline constexpr std::uint32_t kMaxRanks = 256;         // of a stage
inline constexpr std::uint32_t kMaxExpertActors = 256;  // of a stage
inline constexpr std::uint32_t kMaxReplicas = 256;

// Reads `place:` of a topology file: who runs where.
PlaceSpec read_place(const DocumentNode& node, Diagnostics& diagnostics);

}  // namespace troupe::cluster
