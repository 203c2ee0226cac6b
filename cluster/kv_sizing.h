#pragma once

#include <string_view>

#include "cluster/diagnostic.h"
#include "cluster/machine.h"
#include "cluster/plan.h"
#include "runtime/model/config.h"

namespace troupe::cluster {

// Fills in block_size, num_blocks, num_swap_blocks and max_model_len, as make_plan says (plan.h). Errors: blocks that
// do not fit, a max_model_len that cannot be served. REQUIRES: the actors are placed, their slices are valid
void size_kv(const model::ModelConfig& model, const Machine& machine, const Topology& topology, Plan& plan,
             Diagnostics& diagnostics);

// Where the file sets a limit, or nowhere.
Place place_of_limit(const Topology& topology, std::string_view limit);

}  // namespace troupe::cluster
