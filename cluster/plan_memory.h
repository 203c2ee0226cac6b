#pragma once

#include <cstdint>

#include "cluster/diagnostic.h"
#include "cluster/plan.h"
#include "runtime/base/device.h"
#include "runtime/base/limits.h"
#include "runtime/model/config.h"
#include "runtime/model/scratch.h"
#include "runtime/model/slice.h"

namespace troupe::cluster {

// Bytes of a slice's weights in a device's memory, by what the config says of their types: on cores as they are stored,
// on a GPU as its kernels read them (kernels/cuda/packed_weight.h).
std::uint64_t weight_bytes_on(Device::Kind device, const model::ModelConfig& model, const model::Slice& slice);

// What a slice takes of a GPU beside weights and KV pages: activations, the workspaces of kernels, and, in a group over
// NCCL, what it exchanges through and kNcclBytes.
std::uint64_t gpu_scratch_bytes(const model::ModelConfig& model, const model::Slice& slice, const model::StepSize& size,
                                bool uses_nccl);

// The same of an expert shard.
std::uint64_t gpu_expert_scratch_bytes(const model::ModelConfig& model, const model::Slice& slice,
                                       std::uint32_t max_batch_tokens);

// NCCL's own buffers for a rank. With its defaults: 4 MiB (NCCL_BUFFSIZE) and 5 MiB for small messages on each of up to
// 32 channels, of the peer before it in the ring and those in the tree; fewer where GPUs are not all connected.
inline constexpr std::uint64_t kNcclBytes = std::uint64_t{512} << 20;

// Fills in what shards, experts and drafts take of their devices' memory. `draft`: the model of the drafts, if there
// are any. REQUIRES: the actors are placed, their slices are valid, and the KV blocks are counted
void add_memory(const model::ModelConfig& model, const model::ModelConfig* draft, const Limits& limits, Plan& plan);

// Complains, at `place`, about what exceeds the memory of a GPU (an error) or of this machine (a warning: the system
// may do without pages that nobody touches). REQUIRES: add_memory
void check_memory(const Machine& machine, const Plan& plan, const Place& place, Diagnostics& diagnostics);

}  // namespace troupe::cluster
