#pragma once

#include <memory>

#include "kernels/device_memory.h"
#include "runtime/base/result.h"
#include "runtime/collective/communicator.h"

namespace troupe::model {

// A group whose tensors lie in the memory of a device: each is copied to pinned memory of the host, exchanged there by
// `group`, and copied back. Sums keep the bits of `group`. Serves any mixture of devices in a group, two ranks on one
// GPU among them.
//
// Pinned memory is grown by the largest operation and never shrinks. `memory` outlives the communicator; its errors
// come out of the operations.
std::unique_ptr<collective::Communicator> make_staged_communicator(std::unique_ptr<collective::Communicator> group,
                                                                   kernels::DeviceMemory& memory);

}  // namespace troupe::model
