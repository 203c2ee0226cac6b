#pragma once

// What kernels are written in: CUDA C++, or, under TROUPE_EMULATE_GPU, the part of it that is emulated. Every .cu and
// .cuh includes this and no header of CUDA's. Kernels live in troupe::kernels::TROUPE_GPU_NAMESPACE.
//
//   launch(stream, grid, block, dynamic_shared_bytes, kernel, args...)   instead of triple angle brackets
//   TROUPE_DYNAMIC_SHARED(type, name)                                    instead of extern __shared__
//
// Errors of a launch come out of Gpu::synchronize(). Inline PTX lives in kernels/cuda/tensor_core.h.

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/gpu.h"

#ifdef TROUPE_EMULATE_GPU
#include "kernels/cuda/emulator/simt.h"
#else

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <utility>

#define TROUPE_GPU_NAMESPACE cuda

// At a multiple of 128 bytes.
#define TROUPE_DYNAMIC_SHARED(type, name)                                        \
  extern __shared__ __align__(128) unsigned char troupe_dynamic_shared_memory[]; \
  type* const name = reinterpret_cast<type*>(troupe_dynamic_shared_memory)

namespace troupe::kernels::cuda {

using Grid = dim3;
using Block = dim3;

template <class... Params, class... Args>
void launch(Stream stream, Grid grid, Block block, std::size_t dynamic_shared_bytes, void (*kernel)(Params...),
            Args&&... args) {
  // More than that must be asked for.
  constexpr std::size_t kUsualSharedBytes = 48 * 1024;
  if (dynamic_shared_bytes > kUsualSharedBytes) {
    // An error is the launch's own: it stays until synchronize() fetches it.
    cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                         static_cast<int>(dynamic_shared_bytes));
  }
  [&](Params... params) {
    void* pointers[] = {&params..., nullptr};
    cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, pointers, dynamic_shared_bytes,
                     static_cast<cudaStream_t>(stream.handle));
  }(static_cast<Params>(std::forward<Args>(args))...);
}

}  // namespace troupe::kernels::cuda

#endif
