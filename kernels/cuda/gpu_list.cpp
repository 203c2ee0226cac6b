#include "kernels/cuda/gpu_list.h"

#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "kernels/cuda/nvml.h"

namespace troupe::kernels {
namespace {

// The driver's own interface (cuda.h), so that a build without CUDA can look for GPUs as well.
using CuResult = int;
using CuDevice = int;
struct CuUuid {
  GpuUuid bytes;
};
enum CuAttribute : int {
  kMemoryClockRate = 36,       // kHz
  kGlobalMemoryBusWidth = 37,  // bits
  kComputeCapabilityMajor = 75,
  kComputeCapabilityMinor = 76,
};

struct Driver {
  CuResult (*init)(unsigned) = nullptr;
  CuResult (*device_count)(int*) = nullptr;
  CuResult (*device)(CuDevice*, int) = nullptr;
  CuResult (*name)(char*, int, CuDevice) = nullptr;
  CuResult (*total_memory)(std::size_t*, CuDevice) = nullptr;
  CuResult (*attribute)(int*, CuAttribute, CuDevice) = nullptr;
  CuResult (*uuid)(CuUuid*, CuDevice) = nullptr;
  CuResult (*error_name)(CuResult, const char**) = nullptr;
};

constexpr const char* kLibrary = "libcuda.so.1";

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(::dlsym(library, name));
  return function != nullptr;
}

// Stays loaded: whoever lists GPUs may use them.
Result<Driver> load_driver() {
  void* library = ::dlopen(kLibrary, RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    return unavailable(std::string("there is no NVIDIA driver here (") + kLibrary +
                       " cannot be loaded); install one, use cpu:N, or try TROUPE_GPU=emulated");
  }
  Driver driver;
  if (find(library, "cuInit", driver.init) && find(library, "cuDeviceGetCount", driver.device_count) &&
      find(library, "cuDeviceGet", driver.device) && find(library, "cuDeviceGetName", driver.name) &&
      find(library, "cuDeviceTotalMem_v2", driver.total_memory) &&
      find(library, "cuDeviceGetAttribute", driver.attribute) && find(library, "cuDeviceGetUuid", driver.uuid) &&
      find(library, "cuGetErrorName", driver.error_name)) {
    return driver;
  }
  return unsupported(std::string(kLibrary) + " is too old for CUDA 12; update the NVIDIA driver");
}

Error failure(const Driver& driver, std::string_view what, CuResult result) {
  const char* name = nullptr;
  if (driver.error_name(result, &name) != 0 || name == nullptr) name = "unknown error";
  return unavailable("the NVIDIA driver fails at " + std::string(what) + ": " + name + " (" + std::to_string(result) +
                     "); nvidia-smi may say more");
}

Result<GpuInfo> describe(const Driver& driver, int index) {
  CuDevice device = 0;
  if (const CuResult got = driver.device(&device, index); got != 0) return failure(driver, "finding a GPU", got);
  std::array<char, 128> name{};
  std::size_t memory_bytes = 0;
  int clock_khz = 0, width_bits = 0, major = 0, minor = 0;
  CuUuid uuid{};
  for (const CuResult got :
       {driver.name(name.data(), int{name.size()} - 1, device), driver.total_memory(&memory_bytes, device),
        driver.attribute(&clock_khz, kMemoryClockRate, device),
        driver.attribute(&width_bits, kGlobalMemoryBusWidth, device),
        driver.attribute(&major, kComputeCapabilityMajor, device),
        driver.attribute(&minor, kComputeCapabilityMinor, device), driver.uuid(&uuid, device)}) {
    if (got != 0) return failure(driver, "describing GPU " + std::to_string(index), got);
  }
  GpuInfo info = {.name = name.data(),
                  .memory_bytes = memory_bytes,
                  .free_bytes = free_gpu_bytes(uuid.bytes, memory_bytes).value_or(memory_bytes),
                  // Both edges of the clock carry data.
                  .bytes_per_second = 2e3 * clock_khz * width_bits / 8,
                  .compute_capability = 10 * major + minor};
  std::memcpy(&info.unique_id, uuid.bytes.data(), sizeof info.unique_id);
  return info;
}

std::vector<GpuInfo> emulated_gpus() {
  std::vector<GpuInfo> gpus(kEmulatedGpus);
  for (std::uint32_t index = 0; index < kEmulatedGpus; ++index) {
    gpus[index] = {.name = "emulated on the CPU",
                   .memory_bytes = kEmulatedGpuBytes,
                   .free_bytes = kEmulatedGpuBytes,
                   .compute_capability = kMinComputeCapability,
                   .unique_id = index};
  }
  return gpus;
}

}  // namespace

bool gpus_are_emulated() {
  const char* wanted = std::getenv("TROUPE_GPU");
  return wanted != nullptr && std::string_view(wanted) == "emulated";
}

Result<std::vector<GpuInfo>> list_gpus() {
  if (gpus_are_emulated()) return emulated_gpus();
  TROUPE_ASSIGN_OR_RETURN(const Driver driver, load_driver());
  if (const CuResult started = driver.init(0); started != 0) return failure(driver, "cuInit", started);
  int count = 0;
  if (const CuResult counted = driver.device_count(&count); counted != 0) {
    return failure(driver, "counting GPUs", counted);
  }
  if (count <= 0) {
    return unavailable("the NVIDIA driver shows this process no GPU; see nvidia-smi and CUDA_VISIBLE_DEVICES");
  }
  std::vector<GpuInfo> gpus;
  for (int index = 0; index < count; ++index) {
    TROUPE_ASSIGN_OR_RETURN(GpuInfo info, describe(driver, index));
    gpus.push_back(std::move(info));
  }
  return gpus;
}

}  // namespace troupe::kernels
