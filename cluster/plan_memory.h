#pragma once

#include "cluster/diagnostic.h"
#include "cluster/plan.h"
#include "runtime/base/limits.h"

namespace troupe::cluster {

// Fills in what shards and drafts take of their devices' memory. `draft`: the model of the drafts, if there are any.
// REQUIRES: the actors are placed, their slices are valid, and the KV blocks are counted
void add_memory(const model::ModelConfig& model, const model::ModelConfig* draft, const Limits& limits, Plan& plan);

// Complains, at `place`, about what exceeds the memory of a GPU (an error) or of this machine (a warning: the system
// may do without pages that nobody touches). REQUIRES: add_memory
void check_memory(const Machine& machine, const Plan& plan, const Place& place, Diagnostics& diagnostics);

}  // namespace troupe::cluster
