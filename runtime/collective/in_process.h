#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/collective/communicator.h"

namespace troupe::collective {

struct InProcessOptions {
  std::chrono::milliseconds timeout{60'000};  // of one operation: how long a rank waits for the others
  std::uint32_t spin_iterations = 256;        // before yielding; short, because shards may share cores
  // Before sleeping, the core being left to whoever else wants it: to wake up takes longer than most waits last.
  std::chrono::microseconds yielding{200};
  // An all_reduce of more floats is split among the ranks, at the price of meeting twice.
  std::size_t split_above_floats = 16 * 1024;
};

// One communicator for each rank, at its own index. They share staging memory that is grown by the largest operation
// and never shrinks; no rank ever reads another rank's arguments, so a rank that gives up may free its own at once.
// Destroying a communicator before the others are done leaves them kUnavailable.
// REQUIRES: world_size > 0
std::vector<std::unique_ptr<Communicator>> make_in_process_group(std::uint32_t world_size,
                                                                 const InProcessOptions& options = {});

}  // namespace troupe::collective
