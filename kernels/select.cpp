#include "kernels/select.h"

#include <sched.h>
#include <unistd.h>
#if TROUPE_KERNELS_X86
#include <cpuid.h>
#include <sys/syscall.h>
#endif

#include <algorithm>
#include <cassert>
#include <cstdlib>

#include "kernels/cpu/reference.h"
#include "kernels/cpu/team.h"
#include "kernels/cpu/vector_kernels.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/gpu.h"
#include "kernels/cuda/gpu_list.h"

namespace troupe::kernels {
namespace {

struct NamedImplementation {
  std::string_view name;
  CpuImplementation implementation;
  bool CpuFeatures::*needs;  // null: nothing
  bool by_name_only = false;
};

// From the most to the least capable.
constexpr NamedImplementation kImplementations[] = {
#if TROUPE_KERNELS_X86
    {"amx", CpuImplementation::kAmx, &CpuFeatures::amx},
    {"avx512_bf16", CpuImplementation::kAvx512Bf16, &CpuFeatures::avx512_bf16, true},
    {"avx512", CpuImplementation::kAvx512, &CpuFeatures::avx512},
    {"avx2", CpuImplementation::kAvx2, &CpuFeatures::avx2},
#endif
    {"reference", CpuImplementation::kReference, nullptr},
};

bool can_run(const CpuFeatures& features, const NamedImplementation& implementation) {
  return implementation.needs == nullptr || features.*implementation.needs;
}

#if TROUPE_KERNELS_X86
std::string_view name_of(CpuImplementation implementation) {
  for (const auto& known : kImplementations) {
    if (known.implementation == implementation) return known.name;
  }
  return {};
}
#endif

std::string runnable_names(const CpuFeatures& features) {
  std::string names;
  for (const auto& known : kImplementations) {
    if (!can_run(features, known)) continue;
    if (!names.empty()) names += ", ";
    names += known.name;
  }
  return names;
}

#if TROUPE_KERNELS_X86
// Instructions that clang 14's __builtin_cpu_supports has no name for. Their registers are those of AVX2 (or asked for
// below), so that the operating system needs no question of its own.
struct NewerInstructions {
  bool f16c = false;
  bool avx_vnni = false;
  bool avx512_bf16 = false;
  bool amx = false;
};

NewerInstructions newer_instructions() {
  NewerInstructions found;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0) found.f16c = (ecx >> 29 & 1) != 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0) {
    // The tiles themselves, and products of bytes and of BF16.
    found.amx = (edx >> 24 & 1) != 0 && (edx >> 25 & 1) != 0 && (edx >> 22 & 1) != 0;
  }
  if (__get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0) {
    found.avx_vnni = (eax >> 4 & 1) != 0;
    found.avx512_bf16 = (eax >> 5 & 1) != 0;
  }
  return found;
}

// AMX's registers are too large for Linux to save unasked: a process requests them once, for all its threads.
bool allow_amx_tiles() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

const TileOps* tile_ops_of(CpuImplementation implementation) {
  if (implementation == CpuImplementation::kAmx) return &kAmxTileOps;
  return implementation == CpuImplementation::kAvx512Bf16 ? &kBf16TileOps : nullptr;
}

const QuantisedOps& quantised_ops_of(const CpuFeatures& features, CpuImplementation implementation) {
  if (implementation == CpuImplementation::kAmx) return kAmxQuantisedOps;
  if (implementation != CpuImplementation::kAvx2 && features.avx512_vnni) return kAvx512QuantisedOps;
  return features.avx_vnni ? kAvxVnniQuantisedOps : kAvx2QuantisedOps;
}
#endif

Result<std::unique_ptr<Gpu>> find_gpu(std::uint32_t index) {
  if (!gpus_are_emulated()) return open_gpu(index);
  if (index < kEmulatedGpus) return open_emulated_gpu(index);
  return not_found("there is no cuda:" + std::to_string(index) + ": " + std::to_string(kEmulatedGpus) +
                   " GPUs are emulated, from cuda:0 on");
}

// Of the threads that pack weights for a GPU: enough to keep up with its link, and where there are cores for it, others
// than those of the GPUs beside it.
std::vector<int> packing_cores(std::uint32_t gpu) {
  constexpr std::size_t kMost = 8;
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  std::vector<int> all, cores;
  if (sched_getaffinity(getpid(), sizeof allowed, &allowed) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &allowed)) all.push_back(core);
  }
  for (std::size_t i = 0; i < std::min(kMost, all.size()); ++i) cores.push_back(all[(gpu * kMost + i) % all.size()]);
  return cores;
}

// The library for products that the environment asks for; null where it does not.
Result<std::unique_ptr<CublasLt>> find_gpu_library() {
  const char* const named = std::getenv("TROUPE_GPU_LIBRARY");
  const std::string_view wanted = named == nullptr ? "" : named;
  if (wanted.empty()) return std::unique_ptr<CublasLt>();
  if (wanted != "cublaslt") {
    return invalid_argument("no library for GPUs is called '" + std::string(wanted) + "'; it may be cublaslt, or unset",
                            "TROUPE_GPU_LIBRARY");
  }
  if (gpus_are_emulated()) {
    return unsupported("cuBLASLt needs a real GPU: unset TROUPE_GPU_LIBRARY, or TROUPE_GPU=emulated",
                       "TROUPE_GPU_LIBRARY");
  }
  return open_cublaslt();
}

}  // namespace

CpuFeatures detect_cpu_features() {
  CpuFeatures features;
#if TROUPE_KERNELS_X86
  __builtin_cpu_init();
  const NewerInstructions newer = newer_instructions();
  features.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && newer.f16c;
  features.avx512 = features.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  features.avx_vnni = features.avx2 && newer.avx_vnni;
  features.avx512_vnni = features.avx512 && __builtin_cpu_supports("avx512vnni");
  features.avx512_bf16 = features.avx512_vnni && newer.avx512_bf16;
  features.amx = features.avx512_vnni && newer.amx && allow_amx_tiles();
#endif
  return features;
}

Result<CpuImplementation> select_cpu_implementation(const CpuFeatures& features, std::string_view wanted) {
  for (const auto& known : kImplementations) {
    if (wanted.empty() ? known.by_name_only : known.name != wanted) continue;
    if (can_run(features, known)) return known.implementation;
    if (wanted.empty()) continue;
    return unsupported("kernels '" + std::string(wanted) + "' need instructions that this machine lacks; it can run " +
                           runnable_names(features),
                       "TROUPE_KERNELS");
  }
  return invalid_argument(
      "no kernels are called '" + std::string(wanted) + "'; this machine can run " + runnable_names(features),
      "TROUPE_KERNELS");
}

Result<std::unique_ptr<Kernels>> make_cpu_kernels(const CpuKernelsOptions& options) {
  std::string wanted = options.implementation;
  if (const char* override = std::getenv("TROUPE_KERNELS"); wanted.empty() && override != nullptr) wanted = override;
  const CpuFeatures features = detect_cpu_features();
  TROUPE_ASSIGN_OR_RETURN(const CpuImplementation implementation, select_cpu_implementation(features, wanted));
  TROUPE_ASSIGN_OR_RETURN(auto team, Team::make(options.cores));
#if TROUPE_KERNELS_X86
  if (implementation != CpuImplementation::kReference) {
    const auto& ops = implementation == CpuImplementation::kAvx2 ? kAvx2Ops : kAvx512Ops;
    return make_vector_kernels(name_of(implementation), ops, tile_ops_of(implementation),
                               quantised_ops_of(features, implementation), std::move(team));
  }
#endif
  assert(implementation == CpuImplementation::kReference);
  return make_reference_kernels();
}

ComputeDevice compute_device(const Device& device) {
  if (device.kind == Device::Kind::kCuda) return {.gpu = device.first};
  ComputeDevice compute;
  for (std::uint32_t core = device.first; core <= device.last; ++core) compute.cores.push_back(static_cast<int>(core));
  return compute;
}

Result<std::unique_ptr<Kernels>> make_kernels(const ComputeDevice& device) {
  if (device.gpu) {
    TROUPE_ASSIGN_OR_RETURN(auto gpu, find_gpu(*device.gpu));
    TROUPE_ASSIGN_OR_RETURN(auto library, find_gpu_library());
    return make_cuda_kernels(std::move(gpu), std::move(library), packing_cores(*device.gpu));
  }
  assert(!device.cores.empty());
  TROUPE_ASSIGN_OR_RETURN(auto kernels, make_cpu_kernels({.cores = device.cores}));
  TROUPE_RETURN_IF_ERROR(pin_this_thread(device.cores.front()));
  return kernels;
}

}  // namespace troupe::kernels
