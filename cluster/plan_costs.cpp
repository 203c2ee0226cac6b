#include "cluster/plan_costs.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "actors/names.h"
#include "kernels/tensor.h"

namespace troupe::cluster {
namespace {

// What one sequence adds to the flat lists of a decoding Step (schema/step.capnp): sequence, token count, start
// position, count of new blocks, token.
constexpr std::uint64_t kStepBytes = 8 + 4 + 4 + 4 + 4;
// And to a StepResult or Delta: sequence or request, token.
constexpr std::uint64_t kTokenBytes = 8 + 4;
constexpr std::uint64_t kActivationBytes = sizeof(float);

// And of a pair of row and expert to a Dispatch (schema/expert.capnp): row, expert, weight.
constexpr std::uint64_t kPairBytes = 4 + 4 + 4;

// Its shards or its experts.
std::vector<const PlannedActor*> members_of_stage(const Plan& plan, PlannedActor::Kind kind, std::uint32_t replica,
                                                  std::uint32_t stage) {
  std::vector<const PlannedActor*> members;
  for (const PlannedActor& actor : plan.actors) {
    if (actor.kind == kind && actor.replica == replica && actor.stage == stage) members.push_back(&actor);
  }
  return members;
}

std::vector<const PlannedActor*> shards_of_stage(const Plan& plan, std::uint32_t replica, std::uint32_t stage) {
  return members_of_stage(plan, PlannedActor::Kind::kShard, replica, stage);
}

std::vector<const PlannedActor*> experts_of_stage(const Plan& plan, std::uint32_t replica, std::uint32_t stage) {
  return members_of_stage(plan, PlannedActor::Kind::kExpert, replica, stage);
}

// Bytes of weights that one token makes a shard read: all but the embedding table, of which it needs one row, and the
// experts that it is not routed to. A table that also makes the logits is listed once more, as lm_head.
std::uint64_t streamed_bytes(const model::ModelConfig& model, const model::Slice& slice) {
  std::uint64_t bytes = 0, expert_bytes = 0;
  for (const model::TensorSlice& tensor : model::tensor_slices(model, slice)) {
    if (tensor.role == model::TensorRole::kEmbedding) continue;
    (model::is_of_an_expert(tensor.role) ? expert_bytes : bytes) += model::stored_bytes(model, tensor);
  }
  if (model.num_experts != 0) bytes += expert_bytes / model.num_experts * model.num_experts_per_token;
  return bytes;
}

std::uint32_t stages_of(const Plan& plan, std::uint32_t replica) { return plan.find(scheduler_name(replica))->stages; }

// How likely a token goes to any of the experts that the slice holds, if all are chosen equally often.
double share_of_tokens(const model::ModelConfig& model, const model::Slice& slice) {
  const auto held = static_cast<double>(model::held_experts(model, slice).size());
  double none = 1;
  for (std::uint32_t choice = 0; choice < model.num_experts_per_token; ++choice) {
    none *= std::max(0.0, model.num_experts - held - choice) / (model.num_experts - choice);
  }
  return 1 - none;
}

// Between an expert actor and the rank that asks it.
void add_expert_links(const model::ModelConfig& model, const std::vector<const PlannedActor*>& shards,
                      const PlannedActor& expert, Plan& plan) {
  const model::Slice slice = slice_of(plan, expert);
  double layers = 0;
  for (std::uint32_t layer = slice.first_layer; layer < slice.last_layer; ++layer) {
    if (model.has_experts(layer)) ++layers;
  }
  const double held = static_cast<double>(model::held_experts(model, slice).size());
  const double pairs = held * model.num_experts_per_token / model.num_experts;
  const double row_bytes = share_of_tokens(model, slice) * model.hidden_size * kActivationBytes;
  const PlannedActor& shard = *shards[expert.expert % shards.size()];
  const auto link = [&](const PlannedActor& from, const PlannedActor& to, const char* what, double bytes) {
    plan.links.push_back(
        {from.name, to.name, what, static_cast<std::uint64_t>(std::llround(layers * bytes)), from.node != to.node});
  };
  link(shard, expert, "dispatch", row_bytes + pairs * kPairBytes);
  link(expert, shard, "combine", row_bytes);
}

void add_links(const model::ModelConfig& model, std::uint32_t replica, Plan& plan) {
  const auto link = [&plan](const std::string& from, const std::string& to, const char* what, std::uint64_t bytes) {
    plan.links.push_back({from, to, what, bytes, plan.find(from)->node != plan.find(to)->node});
  };
  const std::string scheduler = scheduler_name(replica);
  const std::uint32_t stages = stages_of(plan, replica);
  const std::uint64_t hidden_bytes = model.hidden_size * kActivationBytes;

  link(scheduler, stage_name(replica, 0), "step", kStepBytes);
  for (std::uint32_t stage = 0; stage < stages; ++stage) {
    const auto shards = shards_of_stage(plan, replica, stage);
    const bool last_stage = stage + 1 == stages;
    // One sum after attention and one after the MLP of each layer, and one after the embedding, whose rows are shared
    // out; a sum by reduce-scatter and all-gather sends two parts of 1/ranks from each rank to each other.
    const std::uint64_t layers = shards[0]->last_layer - shards[0]->first_layer;
    const std::uint64_t sums = 2 * layers + (stage == 0 ? 1 : 0);
    for (const PlannedActor* from : shards) {
      for (const PlannedActor* to : shards) {
        if (from == to) continue;
        link(from->name, to->name, "all-reduce", sums * 2 * hidden_bytes / shards.size());
        if (last_stage && to->rank == 0) {
          const auto rows = model::rank_shape(model, slice_of(plan, *from)).vocab.size();
          link(from->name, to->name, "logits", rows * kActivationBytes);
        }
      }
    }
    for (const PlannedActor* expert : experts_of_stage(plan, replica, stage)) {
      add_expert_links(model, shards, *expert, plan);
    }
    if (last_stage) {
      link(stage_name(replica, stage), scheduler, "token", kTokenBytes);
    } else {
      link(stage_name(replica, stage), stage_name(replica, stage + 1), "activation", hidden_bytes + kStepBytes);
    }
  }
  link(scheduler, kGatewayName, "token", kTokenBytes);
}

// Of streaming weights from the device's memory.
double bytes_per_second(const Machine& machine, const Device& device) {
  if (device.kind == Device::Kind::kCpu) return machine.bytes_per_second_per_core * device.cores();
  const double of_gpu = machine.gpus[device.first].bytes_per_second;
  return of_gpu > 0 ? of_gpu : machine.bytes_per_second_per_core;  // an emulated one runs on a core
}

// Of the slowest of some actors of a stage that compute at the same time.
double slowest_seconds(const model::ModelConfig& model, const Machine& machine, const Plan& plan,
                       const std::vector<const PlannedActor*>& actors) {
  double slowest = 0;
  for (const PlannedActor* actor : actors) {
    const auto sharing = std::count_if(actors.begin(), actors.end(), [&](const PlannedActor* other) {
      return other->device->overlaps(*actor->device);
    });
    const double bandwidth = bytes_per_second(machine, *actor->device) / static_cast<double>(sharing);
    slowest = std::max(slowest, static_cast<double>(streamed_bytes(model, slice_of(plan, *actor))) / bandwidth);
  }
  return slowest;
}

// One sequence passes the stages one after the other, so shards of different stages never compete for a core; those of
// one stage do, and so do its experts, for which the shards wait.
double seconds_per_token(const model::ModelConfig& model, const Machine& machine, const Plan& plan,
                         std::uint32_t replica) {
  double seconds = 0;
  for (std::uint32_t stage = 0; stage < stages_of(plan, replica); ++stage) {
    seconds += slowest_seconds(model, machine, plan, shards_of_stage(plan, replica, stage)) +
               slowest_seconds(model, machine, plan, experts_of_stage(plan, replica, stage));
  }
  return seconds;
}

}  // namespace

model::Slice slice_of(const Plan& plan, const PlannedActor& actor) {
  model::Slice slice = {.first_layer = actor.first_layer,
                        .last_layer = actor.last_layer,
                        .num_layers = plan.num_layers,
                        .expert_shards = actor.experts};
  if (actor.kind == PlannedActor::Kind::kExpert) {
    slice.expert_shard = actor.expert;
  } else {
    slice.rank = actor.rank;
    slice.world_size = actor.ranks;
  }
  return slice;
}

void add_costs(const model::ModelConfig& model, const Machine& machine, Plan& plan) {
  for (std::uint32_t replica = 0; replica < plan.replicas; ++replica) {
    add_links(model, replica, plan);
    plan.tokens_per_second = std::max(plan.tokens_per_second, 1 / seconds_per_token(model, machine, plan, replica));
  }
  const bool uses_gpus = std::any_of(plan.actors.begin(), plan.actors.end(), [](const PlannedActor& actor) {
    return actor.device && actor.device->kind == Device::Kind::kCuda;
  });
  const bool has_experts = std::any_of(plan.actors.begin(), plan.actors.end(), [](const PlannedActor& actor) {
    return actor.kind == PlannedActor::Kind::kExpert;
  });
  char basis[250];
  std::snprintf(basis, sizeof basis,
                "one sequence, every weight read once a token at %.1f GB/s a core (%s)%s%s; no messages counted",
                machine.bytes_per_second_per_core / 1e9, machine.measured ? "measured" : "assumed",
                uses_gpus ? " and a GPU's memory at its clock times its width" : "",
                has_experts ? ", all experts chosen equally often" : "");
  plan.prediction_basis = basis;
}

}  // namespace troupe::cluster
