#pragma once

#include <memory>

#include "kernels/cpu/team.h"
#include "kernels/cpu/vector_ops.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

// Kernels that hand pieces of the work to a team, whose members run the inner loops of one instruction set.
// REQUIRES: this machine has that instruction set.
std::unique_ptr<Kernels> make_vector_kernels(const VectorOps& ops, std::unique_ptr<Team> team);

}  // namespace troupe::kernels
