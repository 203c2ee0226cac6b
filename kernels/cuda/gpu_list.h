#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/base/result.h"

namespace troupe::kernels {

// What the driver says of a GPU.
struct GpuInfo {
  std::string name;
  std::uint64_t memory_bytes = 0;
  std::uint64_t free_bytes = 0;  // of it, at this moment; all of it where nobody knows
  double bytes_per_second = 0;   // of its memory: clock times width, which no program quite reaches
  int compute_capability = 0;    // 80 = 8.0
  std::uint64_t unique_id = 0;   // the same wherever the same GPU is looked at; derived from its UUID
};

// The oldest GPU that the kernels are compiled for.
inline constexpr int kMinComputeCapability = 80;

// The largest head_dim that kernels for GPUs take.
inline constexpr std::uint32_t kMaxGpuHeadDim = 256;

// Whether the environment asks for GPUs that are emulated on the CPU: TROUPE_GPU=emulated. There are kEmulatedGpus of
// them then, and no others.
bool gpus_are_emulated();
inline constexpr std::uint32_t kEmulatedGpus = 4;
inline constexpr std::uint64_t kEmulatedGpuBytes = std::uint64_t{4} << 30;

// The GPUs of this machine that this process may see, cuda:0 first. Asks the driver and uses none of them.
// Errors, each with its remedy: no driver, a driver that fails, no GPU.
Result<std::vector<GpuInfo>> list_gpus();

}  // namespace troupe::kernels
