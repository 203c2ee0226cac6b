#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

namespace troupe::kernels {

// NVIDIA's management library (NVML, libnvidia-ml.so.1), which comes with the driver and is found when the program
// runs: it tells what is free of a GPU without using it, where CUDA would first take some hundred megabytes itself.

using GpuUuid = std::array<unsigned char, 16>;

// "GPU-3a4b5c6d-....", as NVML names a GPU.
std::string nvml_name(const GpuUuid& uuid);

// Bytes of a GPU that nobody has taken at this moment. Nothing where the library is missing or does not know the GPU,
// or where `memory_bytes` is much less than it says that the GPU has: then it is a part of one (MIG), of which it says
// nothing.
std::optional<std::uint64_t> free_gpu_bytes(const GpuUuid& uuid, std::uint64_t memory_bytes);

}  // namespace troupe::kernels
