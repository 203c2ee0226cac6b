#pragma once

#include <memory>
#include <string_view>

#include "kernels/cpu/team.h"
#include "kernels/cpu/vector_ops.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

// Kernels that hand pieces of the work to a team, whose members run the inner loops of one instruction set, and
// multiply BF16 weights in matrix registers where `tiles` is not null. `name` has static lifetime.
// REQUIRES: this machine has that instruction set and lets us use those registers.
std::unique_ptr<Kernels> make_vector_kernels(std::string_view name, const VectorOps& ops, const TileOps* tiles,
                                             std::unique_ptr<Team> team);

}  // namespace troupe::kernels
