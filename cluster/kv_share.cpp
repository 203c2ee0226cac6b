#include "cluster/kv_share.h"

#include "cluster/plan_costs.h"
#include "kernels/cuda/packed_weight.h"
#include "runtime/model/config.h"
#include "runtime/model/scratch.h"

namespace troupe::cluster {
namespace {

// Weights as a GPU has them, by the config's word.
std::uint64_t weight_bytes_on_gpu(const model::ModelConfig& model, const model::Slice& slice) {
  std::uint64_t bytes = 0;
  for (const model::TensorSlice& tensor : model::tensor_slices(model, slice)) {
    const std::uint64_t rows = tensor.row_range.size(), cols = tensor.col_range.size();
    if (tensor.is_vector) {
      bytes += tensor.elements() * sizeof(float);
    } else if (tensor.role == model::TensorRole::kEmbedding) {
      bytes += model::stored_bytes(model, tensor);
    } else {
      bytes += kernels::gpu_image_bytes(model.stored_type(tensor.name), rows, cols);
    }
  }
  return bytes;
}

}  // namespace

std::uint64_t kv_share(const model::ModelConfig& model, const Machine& machine, const Limits& limits, const Plan& plan,
                       const PlannedActor& shard) {
  const auto tokens = static_cast<std::uint32_t>(limits.max_batch_tokens);
  const auto sequences = static_cast<std::uint32_t>(limits.max_batch_sequences);
  const model::StepSize size = {tokens, model::logits_rows(sequences, tokens), false};
  std::uint64_t taken = 0, guests = 0;
  for (const PlannedActor& actor : plan.actors) {  // all nodes are of this machine
    if (!actor.device || actor.device->kind != Device::Kind::kCuda || actor.device->first != shard.device->first) {
      continue;
    }
    ++guests;
    taken += kGpuReserveBytes;
    if (actor.kind != PlannedActor::Kind::kShard) continue;
    const model::Slice slice = slice_of(plan, actor);
    taken += weight_bytes_on_gpu(model, slice) + model::scratch_bytes(model, slice, size).device;
  }
  const std::uint64_t there = machine.gpus[shard.device->first].memory_bytes;
  return taken < there ? (there - taken) / guests : 0;
}

}  // namespace troupe::cluster
