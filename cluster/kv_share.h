#pragma once

#include <cstdint>

#include "cluster/plan.h"
#include "runtime/base/limits.h"

namespace troupe::cluster {

// Of a GPU, left to each shard, expert or draft on it beside weights, KV pages and scratch: for what the driver takes
// for a process with the code of its kernels and its graphs, and for workspaces whose size depends on the requests.
inline constexpr std::uint64_t kGpuReserveBytes = std::uint64_t{640} << 20;

// Bytes that the KV pages of a shard on a GPU may take where nobody says how many (limits.kv_memory): an even share,
// among the shards and drafts of that GPU, of what is free there, less the weights and the scratch of the shards and
// experts and kGpuReserveBytes for each of all of them. 0 when nothing is left. Loading asks the GPU again what is
// free. REQUIRES: the actors are placed, their slices are valid
std::uint64_t kv_share(const model::ModelConfig& model, const Machine& machine, const Limits& limits, const Plan& plan,
                       const PlannedActor& shard);

}  // namespace troupe::cluster
