#pragma once

#include <memory>

#include "kernels/device_memory.h"
#include "runtime/base/limits.h"
#include "runtime/base/result.h"
#include "runtime/collective/communicator.h"
#include "schema/cluster.capnp.h"

namespace troupe {

// Makes of a group on the host the one whose tensors lie in the memory of a shard's device: by NCCL where the plan
// allows it, every rank finds the same library and it connects them within limits.nccl_join_timeout_ms, otherwise
// copied through the host (staged_communicator.h), by all ranks. Every rank of the group calls it at the same time;
// rank 0 logs which way it is, and why. TROUPE_NCCL=off in the environment of any rank keeps all of them from NCCL.
//
// `memory` outlives the communicator. Errors: of the host's group; the ranks have not agreed within
// limits.connect_timeout_ms.
Result<std::unique_ptr<collective::Communicator>> join_device_group(std::unique_ptr<collective::Communicator> host,
                                                                    schema::ShardSpec::Reader spec,
                                                                    kernels::DeviceMemory& memory,
                                                                    const Limits& limits);

}  // namespace troupe
