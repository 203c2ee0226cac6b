#pragma once

#include <memory>

#include "kernels/kernels.h"

namespace troupe::model::testing {

// The reference kernels on a device whose memory the host cannot touch: outside of their operations and copies, every
// access to it ends the process. Stands for a GPU where what uses kernels is tested.
std::unique_ptr<kernels::Kernels> make_guarded_kernels();

}  // namespace troupe::model::testing
