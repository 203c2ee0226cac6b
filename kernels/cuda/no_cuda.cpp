#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/gpu.h"

namespace troupe::kernels {

Result<std::unique_ptr<Gpu>> open_gpu(std::uint32_t) {
  return unsupported(
      "this build has no CUDA: build it where nvcc is (-DTROUPE_CUDA=ON), use cpu devices, or TROUPE_GPU=emulated");
}

Result<std::unique_ptr<CublasLt>> open_cublaslt() {
  return unsupported("this build has no CUDA, hence no cuBLASLt: build it where nvcc is (-DTROUPE_CUDA=ON)");
}

}  // namespace troupe::kernels
