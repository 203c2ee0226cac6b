#pragma once

#include <cstddef>
#include <cstdint>

namespace troupe::kernels {

// What the largest step asks of a GPU's kernels.
struct GpuStepSize {
  std::size_t rows = 0;
  std::size_t most_cols = 0;          // that a product has as inputs
  std::size_t kv_width = 0;           // KV heads * head_dim
  std::size_t experts_per_token = 0;  // 0 = there are none
  std::size_t expert_width = 0;       // outputs of an expert's gate
  std::size_t drawn_rows = 0;         // that tokens are drawn for
  std::size_t vocabulary = 0;
};

// Device memory that the workspaces of Kernels on a GPU grow to (kernels/cuda/workspace.h), beside the arenas: the
// step's lists, inputs as tensor cores take them, keys and values on their way to the pages, what sampling works in.
// Left out is what depends on the requests, and is small beside a GPU: attention in pieces, histories of penalties; and
// what TROUPE_GPU_LIBRARY takes.
std::uint64_t gpu_workspace_bytes(const GpuStepSize& size);

}  // namespace troupe::kernels
