#pragma once

#include <memory>
#include <string_view>

#include "kernels/cpu/quantised_ops.h"
#include "kernels/cpu/team.h"
#include "kernels/cpu/vector_ops.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

// Kernels that hand pieces of the work to a team, whose members run the inner loops of one instruction set (of one for
// quantised weights), and multiply BF16 weights in matrix registers where `tiles` is not null.
// REQUIRES: this machine has all of them, and lets us use those registers.
std::unique_ptr<Kernels> make_vector_kernels(std::string_view name, const VectorOps& ops, const TileOps* tiles,
                                             const QuantisedOps& quantised_ops, std::unique_ptr<Team> team);

}  // namespace troupe::kernels
