#include "cluster/kv_share.h"

#include "cluster/plan_costs.h"
#include "cluster/plan_memory.h"
#include "runtime/model/expert_shard.h"
#include "runtime/model/scratch.h"

namespace troupe::cluster {

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
    taken += kGpuReserveBytes;
    const bool is_expert = actor.kind == PlannedActor::Kind::kExpert;
    if (!is_expert) ++guests;
    if (actor.kind == PlannedActor::Kind::kDraft) continue;
    const model::Slice slice = slice_of(plan, actor);
    taken += weight_bytes_on(Device::Kind::kCuda, model, slice);
    taken += is_expert ? gpu_expert_scratch_bytes(model, slice, tokens)
                       : gpu_scratch_bytes(model, slice, size, actor.exchange == Exchange::kNccl);
  }
  const std::uint64_t there = machine.gpus[shard.device->first].free_bytes;
  return taken < there ? (there - taken) / guests : 0;
}

}  // namespace troupe::cluster
