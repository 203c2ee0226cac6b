#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/kernels.h"
#include "runtime/base/device.h"
#include "runtime/base/result.h"

namespace troupe::kernels {

enum class CpuImplementation { kReference, kAvx2, kAvx512, kAvx512Bf16, kAmx };

// What the machine and its operating system let us use.
struct CpuFeatures {
  bool avx2 = false;    // with FMA and F16C
  bool avx512 = false;  // F, BW, DQ and VL
  bool amx = false;     // the above, AVX-512 VNNI and AMX's tiles for int8 and BF16, which Linux lets this process use
  bool avx512_bf16 = false;  // the above, AVX-512 VNNI and products of BF16
  // Better products of bytes, for quantised weights within "avx2" and "avx512".
  bool avx_vnni = false;
  bool avx512_vnni = false;
};

// Asks the system for the matrix registers, which it grants to the process and the threads it starts from then on.
CpuFeatures detect_cpu_features();

// The implementation named `wanted` ("reference", "avx2", "avx512", "avx512_bf16" or "amx"), or where it is empty the
// best that `features` allow; but for "avx512_bf16", which must be asked for: it rounds what BF16 weights are
// multiplied with to BF16 as well, and is twice as fast where arithmetic is the limit. Errors (invalid argument,
// unsupported) list the names that this machine can run.
Result<CpuImplementation> select_cpu_implementation(const CpuFeatures& features, std::string_view wanted);

struct CpuKernelsOptions {
  std::vector<int> cores;      // one worker for each, the calling thread being the first; empty = one, unpinned
  std::string implementation;  // empty = the environment's TROUPE_KERNELS, or else the best
};

// Worker threads are pinned to cores[1..]; the calling thread is left as it is.
Result<std::unique_ptr<Kernels>> make_cpu_kernels(const CpuKernelsOptions& options);

// What a shard computes on.
struct ComputeDevice {
  std::vector<int> cores;            // one thread each; empty with a GPU
  std::optional<std::uint32_t> gpu;  // its index
};
ComputeDevice compute_device(const Device& device);

// The best kernels for the device, for use by the calling thread, which is pinned to cores.front(): memory that it
// touches first is then near. The environment's TROUPE_GPU_LIBRARY=cublaslt has that library multiply many rows on
// GPUs, =cublaslt_fp8 in FP8. Errors: a core that this process may not use; of open_gpu (kernels/cuda/gpu.h); a library
// that is not there.
Result<std::unique_ptr<Kernels>> make_kernels(const ComputeDevice& device);

}  // namespace troupe::kernels
