#include "kernels/cuda/gpu.h"

namespace troupe::kernels {

Result<std::unique_ptr<Gpu>> open_gpu(std::uint32_t) {
  return unsupported(
      "this build has no CUDA: build it where nvcc is (-DTROUPE_CUDA=ON), use cpu devices, or TROUPE_GPU=emulated");
}

}  // namespace troupe::kernels
