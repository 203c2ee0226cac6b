#pragma once

#include "cluster/plan.h"
#include "runtime/model/slice.h"

namespace troupe::cluster {

// What a shard or an expert of a plan computes, in the model's terms.
model::Slice slice_of(const Plan& plan, const PlannedActor& actor);

// Fills in `links` and the predicted speed. REQUIRES: the actors are placed, their slices are valid, and device cores
// exist.
void add_costs(const model::ModelConfig& model, const Machine& machine, Plan& plan);

}  // namespace troupe::cluster
