#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/gpu.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

// What computes the products of many rows instead of our own kernels, and how.
struct GpuLibrary {
  std::unique_ptr<CublasLt> library;  // or null
  LargeProducts products = LargeProducts::kBf16;
};

// The operations of a transformer on one GPU, queued on its one stream: nothing waits for the device but what asks
// memory() for a result. The lists of a step are sent by one copy when it begins. Small
// steps are padded (kernels/cuda/step_buffer.h) and repeated from recordings (kernels/cuda/step_graphs.h); a row has
// the same bits either way.
//
// Numbers: activations are float32 between operations. Products round them to BF16 (float weights) or quantise them as
// the CPU does (quantised weights); sums are float32.
// Errors: what goes wrong in an operation comes out of memory().download() and synchronize().
//
// library: with one, a row's bits depend on how many rows there are, but with weights of kInt8.
// cores: of the host's threads that pack weights, the calling one being the first; empty = that one alone.
// Errors of making them: no memory for the staging area; a core that this process may not use.
Result<std::unique_ptr<Kernels>> make_cuda_kernels(std::unique_ptr<Gpu> gpu, GpuLibrary library = {},
                                                   const std::vector<int>& cores = {});

// Rows from which on a library pays: it unpacks weights for each product.
constexpr std::size_t kLeastLibraryRows = 256;

}  // namespace troupe::kernels
