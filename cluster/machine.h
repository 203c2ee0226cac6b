#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/cuda/gpu_list.h"

namespace troupe::cluster {

// What the planner must know of the machine that `localhost` is.
struct Machine {
  std::vector<std::uint32_t> cores = {0};  // that this process may use, ascending
  double bytes_per_second_per_core = 8e9;  // of streaming weights from memory
  bool measured = false;                   // false: the number above is an assumption
  std::uint64_t memory_bytes = 0;          // of its main memory, or what this process may have of it; 0 = not known
  std::vector<kernels::GpuInfo> gpus;      // by index
  std::string why_no_gpus;                 // for people, where there are none
};

// The cores that this process may use; the bandwidth stays an assumption. GPUs only if `with_gpus`: to ask for them
// takes a moment.
Machine this_machine(bool with_gpus);

}  // namespace troupe::cluster
