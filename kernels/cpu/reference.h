#pragma once

#include <memory>

#include "kernels/kernels.h"

namespace troupe::kernels {

// The oracle: scalar, single-threaded, written to be read, accumulating in double. Runs on every machine.
std::unique_ptr<Kernels> make_reference_kernels();

}  // namespace troupe::kernels
