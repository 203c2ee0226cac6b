#include "cluster/plan_memory.h"

#include <map>
#include <string>

#include "cluster/plan_costs.h"
#include "kernels/cuda/packed_weight.h"
#include "runtime/collective/nccl_communicator.h"
#include "runtime/model/expert_shard.h"
#include "runtime/model/scratch.h"

namespace troupe::cluster {
namespace {

bool on_gpu(const PlannedActor& actor) { return actor.device->kind == Device::Kind::kCuda; }

void add_scratch(const model::ScratchBytes& bytes, PlannedActor& actor) {
  actor.scratch_bytes = bytes.device;
  (on_gpu(actor) ? actor.host_bytes : actor.scratch_bytes) += bytes.host;
}

void add_scratch(const model::ModelConfig& model, const model::Slice& slice, model::StepSize size,
                 PlannedActor& actor) {
  size.on_host = !on_gpu(actor);
  add_scratch(model::scratch_bytes(model, slice, size), actor);
}

// What a group over NCCL takes beside the matrices that it exchanges: sums of hidden states, and on the last stage the
// logits of all ranks.
std::uint64_t exchange_bytes(const model::ModelConfig& model, const model::Slice& slice, const model::StepSize& size) {
  const std::uint64_t logits =
      slice.is_last_stage() ? size.max_logits_rows * model::largest_vocab_part(model, slice) : 0;
  return collective::nccl_scratch_bytes(slice.rank, slice.world_size, std::uint64_t{size.max_batch_tokens},
                                        model.hidden_size, logits);
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
      if (actor.exchange == Exchange::kNccl) actor.scratch_bytes += exchange_bytes(model, slice, size);
    } else if (actor.kind == PlannedActor::Kind::kExpert) {
      const model::Slice slice = slice_of(plan, actor);
      actor.weight_bytes = weight_bytes_on(actor.device->kind, model, slice);
      add_scratch(model::expert_scratch_bytes(model, slice, tokens, !on_gpu(actor)), actor);
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
    const std::uint64_t there = machine.gpus[index].memory_bytes;
    if (sum.bytes() > there) diagnostics.error(place, too_much(sum, "cuda:" + std::to_string(index), there));
  }
  if (machine.memory_bytes > 0 && host.bytes() > machine.memory_bytes) {
    diagnostics.warning(place, too_much(host, "this machine", machine.memory_bytes));
  }
}

}  // namespace troupe::cluster
