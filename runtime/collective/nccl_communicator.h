#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "kernels/device_memory.h"
#include "runtime/base/result.h"
#include "runtime/collective/communicator.h"
#include "runtime/collective/nccl_library.h"

namespace troupe::collective {

struct NcclCommunicatorOptions {
  std::chrono::milliseconds timeout{60'000};     // of an operation
  std::chrono::milliseconds watch_interval{50};  // how often the group is looked after
};

// A group whose tensors lie in the memories of GPUs, one for each rank and no two the same, exchanged by NCCL on the
// stream of each: nothing waits for the host.
//
// Sums: NCCL adds in an order of its own, so it adds only where there is none to choose: the all_reduce of two ranks,
// a + b. Otherwise numbers are exchanged, and added in rank order by our own kernel. A rank of a group of w receives,
// for n bytes:
//   all_reduce of two        n      (ncclAllReduce)
//   all_reduce, small or odd (w - 1) n      whole tensors by all_gather
//   all_reduce               2 (w - 1) / w n      parts to their ranks, and the sums back
//   reduce_scatter, all_to_all   (w - 1) / w n of the input;  all_gather   (w - 1) n;  gather   (w - 1) n on the root
//
// Failures: a kernel that waits for a peer on the GPU never ends by itself. A thread looks whether the group on the
// host has lost a peer or was aborted, whether NCCL reports an error, and whether the GPU is done within the timeout;
// at the first of these NCCL is told to abort, which ends the kernel, and `host` as well, so that the other ranks learn
// of it. What the kernels leave behind then is rubbish: whoever waited for the GPU asks check() before using it.
//
// Operations are not recorded in CUDA graphs; what lies between them is (Kernels::repeat). Whether an operation is part
// of a graph must be the same on all ranks (NCCL's user guide, "Using NCCL with CUDA Graphs"), and what a rank records
// when follows from its own memory and its own share of the heads. And ncclCommAbort, which ends kernels that wait for
// a peer that is gone, would itself wait until every graph with one of its operations is destroyed.
//
// Groups do not shrink (ncclCommShrink): a stage has as many ranks as its weights were cut for, and one that is lost is
// replaced, under a new epoch with a new group. An old group is aborted, never destroyed in turn: its peers may be
// gone.
//
// comm: this rank in a group of NCCL's that all ranks have joined (nccl_join.h); it is taken over in any case. `host`:
// the group of the same ranks on the host. `memory`: of a GPU, which this thread uses; outlives the communicator.
// Device memory is grown by the largest operation and never shrinks. Errors: no event of the GPU to be had. What is
// wrong with the group comes out of its operations. REQUIRES: host->world_size() > 1
Result<std::unique_ptr<Communicator>> make_nccl_communicator(const NcclFunctions& nccl, NcclComm* comm,
                                                             std::unique_ptr<Communicator> host,
                                                             kernels::DeviceMemory& memory,
                                                             const NcclCommunicatorOptions& options = {});

// The device memory that such a group of `ranks` takes on each (and NCCL its own beside it), where sums are of at most
// `rows` rows of `cols` floats.
std::uint64_t nccl_scratch_bytes(std::uint32_t ranks, std::uint64_t rows, std::uint64_t cols);

}  // namespace troupe::collective
