#include "cluster/plan_memory.h"

#include <algorithm>
#include <map>
#include <string>

#include "cluster/plan_costs.h"
#include "kernels/cuda/packed_weight.h"
#include "kernels/cuda/workspace_bytes.h"
#include "runtime/collective/nccl_communicator.h"
#include "runtime/model/expert_shard.h"
#include "runtime/model/scratch.h"

namespace troupe::cluster {
namespace {

bool on_gpu(const PlannedActor& actor) { return actor.device->kind == Device::Kind::kCuda; }

void add_scratch(const model::ModelConfig& model, const model::Slice& slice, model::StepSize size,
                 PlannedActor& actor) {
  size.on_host = !on_gpu(actor);
  const model::ScratchBytes bytes = model::scratch_bytes(model, slice, size);
  if (on_gpu(actor)) {
    actor.scratch_bytes = gpu_scratch_bytes(model, slice, size, actor.exchange == Exchange::kNccl);
    actor.host_bytes += bytes.host;
  } else {
    actor.scratch_bytes = bytes.device + bytes.host;
  }
}

struct Sum {
  std::uint64_t weight_bytes = 0;
  std::uint64_t kv_bytes = 0;
  std::uint64_t scratch_bytes = 0;

  void add(const PlannedActor& actor) {
    weight_bytes += actor.weight_bytes;
    kv_bytes += actor.kv_bytes;
    scratch_bytes += actor.scratch_bytes;
  }
  std::uint64_t bytes() const { return weight_bytes + kv_bytes + scratch_bytes; }
};

std::string too_much(const Sum& sum, const std::string& where, std::uint64_t there) {
  return "weights (" + std::to_string(sum.weight_bytes) + " bytes), KV pages (" + std::to_string(sum.kv_bytes) +
         ") and scratch (" + std::to_string(sum.scratch_bytes) + ") on " + where + " take " +
         std::to_string(sum.bytes()) + " bytes, and it has " + std::to_string(there) +
         "; lower limits.kv_memory or limits.max_batch_tokens, quantise the model, or share it out among more devices";
}

}  // namespace

std::uint64_t weight_bytes_on(Device::Kind device, const model::ModelConfig& model, const model::Slice& slice) {
  if (device != Device::Kind::kCuda) return model::weight_bytes(model, slice);
  std::uint64_t bytes = 0;
  for (const model::TensorSlice& tensor : model::tensor_slices(model, slice)) {
    if (tensor.is_vector) {
      bytes += tensor.elements() * sizeof(float);
    } else if (tensor.role == model::TensorRole::kEmbedding) {
      bytes += model::stored_bytes(model, tensor);
    } else {
      bytes +=
          kernels::gpu_image_bytes(model.stored_type(tensor.name), tensor.row_range.size(), tensor.col_range.size());
    }
  }
  return bytes;
}

std::uint64_t gpu_scratch_bytes(const model::ModelConfig& model, const model::Slice& slice, const model::StepSize& size,
                                bool uses_nccl) {
  const model::RankShape shape = model::rank_shape(model, slice);
  const bool mixes = model.num_experts != 0 && slice.expert_shards == 0;
  const bool draws = slice.is_last_stage() && slice.rank == 0;
  const kernels::GpuStepSize step = {
      .rows = size.max_batch_tokens,
      .most_cols = std::max({std::uint64_t{model.hidden_size}, shape.heads.size() * model.head_dim,
                             shape.intermediate.size(), shape.shared.size(), shape.dense.size()}),
      .kv_width = shape.kv_heads.size() * model.head_dim,
      .experts_per_token = mixes ? model.num_experts_per_token : 0,
      .expert_width = mixes ? shape.intermediate.size() : 0,
      .drawn_rows = draws ? size.max_logits_rows : 0,
      .vocabulary = model.vocab_size};
  std::uint64_t bytes = model::scratch_bytes(model, slice, size).device + kernels::gpu_workspace_bytes(step);
  if (!uses_nccl) return bytes;
  return bytes + kNcclBytes +
         collective::nccl_scratch_bytes(slice.world_size, size.max_batch_tokens, model.hidden_size);
}

std::uint64_t gpu_expert_scratch_bytes(const model::ModelConfig& model, const model::Slice& slice,
                                       std::uint32_t max_batch_tokens) {
  const kernels::GpuStepSize step = {.rows = max_batch_tokens,
                                     .most_cols = std::max<std::uint64_t>(model.hidden_size, model.intermediate_size)};
  return model::expert_scratch_bytes(model, slice, max_batch_tokens, false).device + kernels::gpu_workspace_bytes(step);
}

void add_memory(const model::ModelConfig& model, const model::ModelConfig* draft, const Limits& limits, Plan& plan) {
  const auto tokens = static_cast<std::uint32_t>(limits.max_batch_tokens);
  const auto sequences = static_cast<std::uint32_t>(limits.max_batch_sequences);
  for (PlannedActor& actor : plan.actors) {
    if (actor.kind == PlannedActor::Kind::kShard) {
      const model::Slice slice = slice_of(plan, actor);
      const model::StepSize size = {.max_batch_tokens = tokens,
                                    .max_logits_rows = model::logits_rows(sequences, tokens)};
      actor.weight_bytes = weight_bytes_on(actor.device->kind, model, slice);
      actor.kv_bytes =
          std::uint64_t{plan.num_blocks} * model::bytes_per_block(model, slice, plan.block_size, plan.kv_dtype);
      add_scratch(model, slice, size, actor);
    } else if (actor.kind == PlannedActor::Kind::kExpert) {
      const model::Slice slice = slice_of(plan, actor);
      actor.weight_bytes = weight_bytes_on(actor.device->kind, model, slice);
      const model::ScratchBytes bytes = model::expert_scratch_bytes(model, slice, tokens, !on_gpu(actor));
      actor.scratch_bytes = on_gpu(actor) ? gpu_expert_scratch_bytes(model, slice, tokens) : bytes.device + bytes.host;
      if (on_gpu(actor)) actor.host_bytes += bytes.host;
    } else if (actor.kind == PlannedActor::Kind::kDraft && draft != nullptr) {
      const model::Slice whole = {.last_layer = draft->num_layers, .num_layers = draft->num_layers, .world_size = 1};
      actor.weight_bytes = weight_bytes_on(actor.device->kind, *draft, whole);
      actor.kv_bytes =
          std::uint64_t{plan.num_blocks} * model::bytes_per_block(*draft, whole, plan.block_size, plan.kv_dtype);
      add_scratch(*draft, whole, {.max_batch_tokens = tokens, .max_logits_rows = sequences}, actor);
    }
  }
}

void check_memory(const Machine& machine, const Plan& plan, const Place& place, Diagnostics& diagnostics) {
  std::map<std::uint32_t, Sum> gpus;  // all nodes are of this machine
  Sum host;
  for (const PlannedActor& actor : plan.actors) {
    if (!actor.device) continue;
    (on_gpu(actor) ? gpus[actor.device->first] : host).add(actor);
    host.scratch_bytes += actor.host_bytes;
  }
  for (const auto& [index, sum] : gpus) {
    const kernels::GpuInfo& gpu = machine.gpus[index];
    const std::string name = "cuda:" + std::to_string(index);
    if (sum.bytes() > gpu.memory_bytes) {
      diagnostics.error(place, too_much(sum, name, gpu.memory_bytes));
    } else if (sum.bytes() > gpu.free_bytes) {
      // Others may be gone when it starts, or be this cluster itself.
      diagnostics.warning(place, "what runs on " + name + " takes " + std::to_string(sum.bytes()) + " bytes, and " +
                                     std::to_string(gpu.free_bytes) + " of its " + std::to_string(gpu.memory_bytes) +
                                     " are free now: lower limits.kv_memory, or end who uses it (nvidia-smi)");
    }
  }
  if (machine.memory_bytes > 0 && host.bytes() > machine.memory_bytes) {
    diagnostics.warning(place, too_much(host, "this machine", machine.memory_bytes));
  }
}

}  // namespace troupe::cluster
