#include "kernels/cuda/workspace_bytes.h"

#include <algorithm>

#include "kernels/cuda/gpu_row_sampler.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/sampling.h"
#include "kernels/cuda/step_buffer.h"

namespace troupe::kernels {

std::uint64_t gpu_workspace_bytes(const GpuStepSize& size) {
  std::uint64_t bytes = StepBuffer::kLeastWords * sizeof(std::uint32_t);
  std::size_t inputs = linear_workspace_bytes(size.rows, size.most_cols);
  if (size.experts_per_token > 0) {
    const std::size_t chosen = size.rows * size.experts_per_token;
    inputs = std::max(inputs, linear_workspace_bytes(chosen, std::max(size.most_cols, size.expert_width)));
    bytes += chosen * (4 + size.expert_width) * sizeof(float);
  }
  bytes += inputs + 2 * size.rows * size.kv_width * sizeof(float);
  if (size.drawn_rows == 0) return bytes;
  return bytes +
         sample_workspace_bytes(GpuRowSampler::rows_together(size.drawn_rows, size.vocabulary), size.vocabulary);
}

}  // namespace troupe::kernels
