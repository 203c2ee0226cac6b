#include "kernels/cuda/nvml.h"

#include <dlfcn.h>

#include <algorithm>

namespace troupe::kernels {
namespace {

constexpr const char* kLibrary = "libnvidia-ml.so.1";

// As far as it is used here (nvml.h).
using NvmlReturn = int;  // 0 = success
using NvmlDevice = void*;
struct NvmlMemory {
  unsigned long long total;
  unsigned long long free;
  unsigned long long used;
};
struct Nvml {
  NvmlReturn (*init)() = nullptr;
  NvmlReturn (*device_by_uuid)(const char*, NvmlDevice*) = nullptr;
  NvmlReturn (*memory_info)(NvmlDevice, NvmlMemory*) = nullptr;
};

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  return function != nullptr;
}

// Loaded and started once, for good.
std::optional<Nvml> open_nvml() {
  void* const library = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  Nvml nvml;
  if (library == nullptr || !find(library, "nvmlInit_v2", nvml.init) ||
      !find(library, "nvmlDeviceGetHandleByUUID", nvml.device_by_uuid) ||
      !find(library, "nvmlDeviceGetMemoryInfo", nvml.memory_info) || nvml.init() != 0) {
    return std::nullopt;
  }
  return nvml;
}

}  // namespace

std::string nvml_name(const GpuUuid& uuid) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string name = "GPU-";
  for (std::size_t i = 0; i < uuid.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) name += '-';
    name += kDigits[uuid[i] / 16];
    name += kDigits[uuid[i] % 16];
  }
  return name;
}

std::optional<std::uint64_t> free_gpu_bytes(const GpuUuid& uuid, std::uint64_t memory_bytes) {
  static const std::optional<Nvml> nvml = open_nvml();
  NvmlDevice device = nullptr;
  NvmlMemory memory{};
  if (!nvml || nvml->device_by_uuid(nvml_name(uuid).c_str(), &device) != 0) return std::nullopt;
  if (nvml->memory_info(device, &memory) != 0) return std::nullopt;
  // NVML counts what the driver keeps for itself as well.
  if (memory.total / 4 * 3 > memory_bytes) return std::nullopt;
  return std::min<std::uint64_t>(memory.free, memory_bytes);
}

}  // namespace troupe::kernels
