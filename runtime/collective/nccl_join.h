#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "kernels/device_memory.h"
#include "runtime/base/result.h"
#include "runtime/collective/communicator.h"
#include "runtime/collective/nccl_agreement.h"
#include "runtime/collective/nccl_communicator.h"
#include "runtime/collective/nccl_library.h"

namespace troupe::collective {

struct NcclJoinOptions {
  std::chrono::milliseconds agreement_timeout{5'000};  // for what the ranks tell each other over the host
  std::chrono::milliseconds join_timeout{30'000};      // for NCCL to connect them
  NcclCommunicatorOptions group;
};

// What has become of a group.
struct NcclJoined {
  std::unique_ptr<Communicator> nccl;  // null: it exchanges otherwise, as all of its ranks do
  std::unique_ptr<Communicator> host;  // then: as it was given
  std::string text;                    // for people: "NCCL 2.27.3", or why not, and what to do about it
};

// Makes of a group on the host one over NCCL, if every rank can take part and all of them have joined in time. Every
// rank calls it at the same time, and all get the same: where one has not joined, the others leave as well. Waits
// meanwhile. `nccl` may be null where own.why_not says so; `memory`: of a GPU, which this thread uses, or of whatever
// own.why_not is about. It outlives the group.
// Errors: of `host`, which is aborted when the ranks have not agreed in time; no event of the GPU to be had.
// REQUIRES: host->world_size() > 1
Result<NcclJoined> join_nccl(std::unique_ptr<Communicator> host, const NcclMember& own, const NcclFunctions* nccl,
                             kernels::DeviceMemory& memory, const NcclJoinOptions& options);

}  // namespace troupe::collective
