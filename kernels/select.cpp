#include "kernels/select.h"

#if TROUPE_KERNELS_X86
#include <cpuid.h>
#endif
#include <sys/syscall.h>
#include <unistd.h>

#include <cassert>
#include <cstdlib>

#include "kernels/cpu/reference.h"
#include "kernels/cpu/team.h"
#include "kernels/cpu/vector_kernels.h"

namespace troupe::kernels {
namespace {

struct NamedImplementation {
  std::string_view name;
  CpuImplementation implementation;
  bool CpuFeatures::*needs;  // null: nothing
};

// From the most to the least capable.
constexpr NamedImplementation kImplementations[] = {
#if TROUPE_KERNELS_X86
    {"amx", CpuImplementation::kAmx, &CpuFeatures::amx},
    {"avx512", CpuImplementation::kAvx512, &CpuFeatures::avx512},
    {"avx2", CpuImplementation::kAvx2, &CpuFeatures::avx2},
#endif
    {"reference", CpuImplementation::kReference, nullptr},
};

bool can_run(const CpuFeatures& features, const NamedImplementation& implementation) {
  return implementation.needs == nullptr || features.*implementation.needs;
}

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
// Whether the processor has AMX for BF16 and the system lets us use its registers (8 KiB a thread, hence by request).
bool request_matrix_registers() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  if ((edx & kAmxBf16) == 0 || (edx & kAmxTile) == 0) return false;
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM, absent from older headers
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return ::syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}
#endif

}  // namespace

CpuFeatures detect_cpu_features() {
  CpuFeatures features;
#if TROUPE_KERNELS_X86
  __builtin_cpu_init();
  features.avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  features.avx512 = features.avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  features.amx = features.avx512 && request_matrix_registers();
#endif
  return features;
}

Result<CpuImplementation> select_cpu_implementation(const CpuFeatures& features, std::string_view wanted) {
  for (const auto& known : kImplementations) {
    if (!wanted.empty() && known.name != wanted) continue;
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
  TROUPE_ASSIGN_OR_RETURN(const CpuImplementation implementation,
                          select_cpu_implementation(detect_cpu_features(), wanted));
  TROUPE_ASSIGN_OR_RETURN(auto team, Team::make(options.cores));
#if TROUPE_KERNELS_X86
  if (implementation == CpuImplementation::kAmx) {
    return make_vector_kernels("amx", kAvx512Ops, &kAmxTileOps, std::move(team));
  }
  if (implementation == CpuImplementation::kAvx512) {
    return make_vector_kernels("avx512", kAvx512Ops, nullptr, std::move(team));
  }
  if (implementation == CpuImplementation::kAvx2) {
    return make_vector_kernels("avx2", kAvx2Ops, nullptr, std::move(team));
  }
#endif
  assert(implementation == CpuImplementation::kReference);
  return make_reference_kernels();
}

}  // namespace troupe::kernels
