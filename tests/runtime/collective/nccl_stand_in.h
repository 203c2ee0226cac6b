#pragma once

#include <memory>

#include "kernels/cuda/gpu.h"
#include "runtime/collective/nccl_library.h"

namespace troupe::collective::testing {

// Stands in for NCCL, between threads of this process and on the memory of emulated GPUs. What a call queues is done by
// a thread of the communicator's own, in order; a transfer waits for its peer until the communicator is aborted.
// One at a time in a process, because NCCL's functions know no object.
class NcclStandIn {
 public:
  // When a call is reported as done.
  enum class Done {
    kExchanged,  // kInProgress until the data is there, which the emulator's streams need
    kQueued,     // at once, as NCCL does: the rest takes place on the GPU, whom one asks then (make_gpu)
  };

  explicit NcclStandIn(Done done = Done::kExchanged);
  ~NcclStandIn();
  NcclStandIn(const NcclStandIn&) = delete;
  NcclStandIn& operator=(const NcclStandIn&) = delete;

  NcclFunctions functions() const;
  NcclUniqueId make_id();

  // Communicators that were made and not aborted.
  int alive() const;

  // From now on get_async_error tells this of that rank.
  void break_rank(int rank, NcclStatus status);

  // An emulated GPU whose stream waits for what was queued there with kQueued.
  std::unique_ptr<kernels::Gpu> make_gpu(std::uint32_t index);

 private:
  struct State;
  friend struct State;
  const std::unique_ptr<State> state_;
};

}  // namespace troupe::collective::testing
