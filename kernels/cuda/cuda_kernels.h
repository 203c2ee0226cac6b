#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/gpu.h"
#include "kernels/kernels.h"

namespace troupe::kernels {

// The operations of a transformer on one GPU, queued on its one stream: nothing waits for the device but what asks
// memory() for a result. Lists that describe a step are sent once, however many layers ask for them.
//
// Numbers: activations are float32 between operations. Products round them to BF16 (float weights) or quantise them as
// the CPU does (quantised weights); sums are float32.
// Errors: what goes wrong in an operation comes out of memory().download() and synchronize().
//
// cores: of the host's threads that pack weights, the calling one being the first.
// Errors of making them: no memory for the staging area; a core that this process may not use.
Result<std::unique_ptr<Kernels>> make_cuda_kernels(std::unique_ptr<Gpu> gpu, const std::vector<int>& cores);

}  // namespace troupe::kernels
