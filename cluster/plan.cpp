#include "cluster/plan.h"

#include <algorithm>
#include <set>
#include <tuple>
#include <utility>

#include "actors/names.h"
#include "cluster/device_checks.h"
#include "cluster/kv_sizing.h"
#include "cluster/placement.h"
#include "cluster/plan_costs.h"
#include "cluster/plan_memory.h"
#include "runtime/model/config.h"
#include "runtime/model/slice.h"

namespace troupe::cluster {
namespace {

class Planner {
 public:
  Planner(const model::ModelConfig& model, const Topology& topology, const Machine& machine,
          const model::ModelConfig* draft)
      : model_(model), topology_(topology), machine_(machine), draft_(draft) {}

  Planning run() {
    plan_.cluster = *topology_.cluster;
    plan_.model_path = *topology_.model;
    plan_.served_model_name = *topology_.served_model_name;
    plan_.kv_dtype = *topology_.kv_dtype;
    plan_.packed_cache = *topology_.packed_cache;
    plan_.num_layers = model_.num_layers;
    stages_ = place_stages(model_, topology_, diagnostics_);
    check_devices(model_, machine_, stages_, diagnostics_);
    check_slices();
    if (!diagnostics_.has_errors()) place_actors();
    if (!diagnostics_.has_errors()) size_kv(model_, machine_, topology_, plan_, diagnostics_);
    if (!diagnostics_.has_errors()) {
      add_memory(model_, draft_, topology_.limits, plan_);
      check_memory(machine_, plan_, place_of_limit(topology_, "kv_memory"), diagnostics_);
    }
    if (!diagnostics_.has_errors()) add_costs(model_, machine_, plan_);
    warn_of_idle_nodes();

    Planning planning;
    if (!diagnostics_.has_errors()) planning.plan = std::move(plan_);
    planning.diagnostics = diagnostics_.take();
    return planning;
  }

 private:
  void check_slices() {
    if (diagnostics_.has_errors()) return;
    for (std::size_t s = 0; s < stages_.size(); ++s) {
      const PlacedStage& stage = stages_[s];
      const auto ranks = static_cast<std::uint32_t>(stage.shards.size());
      const model::Slice slice = {.first_layer = stage.first_layer,
                                  .last_layer = stage.last_layer,
                                  .num_layers = model_.num_layers,
                                  .world_size = ranks,
                                  .expert_shards = static_cast<std::uint32_t>(stage.experts.size())};
      if (auto checked = model::check_expert_shards(model_, slice); !checked.ok()) {
        const bool by_planner = topology_.place.stages.empty();
        diagnostics_.error(
            by_planner ? topology_.parallel.expert.place : stage.experts.front().place,
            "stage " + std::to_string(stage.index) + " cannot have these expert actors: " + checked.error().message);
        if (by_planner) return;
      } else if (checked = model::check_slice(model_, slice); !checked.ok()) {
        const Place place = topology_.place.stages.empty() ? topology_.parallel.tensor.place : stage.place;
        diagnostics_.error(place, "stage " + std::to_string(stage.index) + " cannot be cut into " +
                                      std::to_string(ranks) + " shard(s): " + checked.error().message);
        if (topology_.place.stages.empty()) return;  // all stages are cut alike
      }
    }
  }

  void place_actors() {
    const auto& place = topology_.place;
    const std::string gateway = place.gateway ? *place.gateway->node : *topology_.nodes.front().name;
    add(PlannedActor::Kind::kGateway, "gateway", gateway, place.gateway ? "placed by the file" : "the first node");
    plan_.stages = static_cast<std::uint32_t>(stages_.size());
    plan_.replicas = stages_.back().replica + 1;
    for (const PlacedStage& stage : stages_) {
      const auto stages_of_replica = static_cast<std::uint32_t>(std::count_if(
          stages_.begin(), stages_.end(), [&](const PlacedStage& other) { return other.replica == stage.replica; }));
      const auto belongs = [&](PlannedActor& actor) {
        actor.replica = stage.replica;
        actor.stages = stages_of_replica;
      };
      if (stage.index == 0) {
        const bool beside_gateway = plan_.replicas == 1;
        const std::string& node = beside_gateway ? gateway : stage.shards.front().node;
        PlannedActor& scheduler = add(PlannedActor::Kind::kScheduler, scheduler_name(stage.replica),
                                      place.scheduler ? **place.scheduler : node,
                                      place.scheduler  ? "placed by the file"
                                      : beside_gateway ? "beside the gateway"
                                                       : "beside its stage 0");
        belongs(scheduler);
        scheduler.lookahead = looks_ahead(stage, stages_of_replica);
        if (*topology_.speculation.kind == SpeculationSpec::Kind::kDraft) {
          if (PlannedActor* draft = place_draft(stage.replica)) belongs(*draft);
        }
      }
      const auto describe = [&](PlannedActor& actor) {
        belongs(actor);
        actor.stage = stage.index;
        actor.ranks = static_cast<std::uint32_t>(stage.shards.size());
        actor.experts = static_cast<std::uint32_t>(stage.experts.size());
        actor.first_layer = stage.first_layer;
        actor.last_layer = stage.last_layer;
        std::tie(actor.exchange, actor.exchange_reason) = exchange_of(stage.shards);
      };
      describe(add(PlannedActor::Kind::kStage, stage_name(stage.replica, stage.index), stage.shards.front().node,
                   "beside its rank 0"));
      for (std::uint32_t r = 0; r < stage.shards.size(); ++r) {
        const PlacedShard& placed = stage.shards[r];
        PlannedActor& shard =
            add(PlannedActor::Kind::kShard, shard_name(stage.replica, stage.index, r), placed.node, placed.reason);
        describe(shard);
        shard.rank = r;
        shard.device = placed.device;
      }
      for (std::uint32_t e = 0; e < stage.experts.size(); ++e) {
        const PlacedShard& placed = stage.experts[e];
        PlannedActor& expert =
            add(PlannedActor::Kind::kExpert, expert_name(stage.replica, stage.index, e), placed.node, placed.reason);
        describe(expert);
        expert.expert = e;
        expert.device = placed.device;
      }
    }
  }

  // Of the replica of that first stage. Only who draws tokens can go on with what nobody else knows yet, and only who
  // asks nobody else in between can begin the next step. A core computes nothing while it is not asked to, and loses
  // little by waiting for the next step.
  bool looks_ahead(const PlacedStage& first, std::uint32_t stages) {
    const bool one_shard = stages == 1 && first.shards.size() == 1 && first.experts.empty();
    switch (*topology_.lookahead) {
      case Lookahead::kOff: return false;
      case Lookahead::kAuto: return one_shard && first.shards.front().device.kind == Device::Kind::kCuda;
      case Lookahead::kOn: break;
    }
    if (!one_shard) {
      const bool has_experts = stages == 1 && first.shards.size() == 1;
      diagnostics_.error(topology_.lookahead.place, "lookahead: on needs replicas of one shard, but replica " +
                                                        std::to_string(first.replica) +
                                                        (has_experts ? " has expert actors" : " has more") +
                                                        "; write auto, or give it one stage of one shard");
    }
    return one_shard;
  }

  static std::pair<Exchange, std::string> exchange_of(const std::vector<PlacedShard>& shards) {
    const auto on_gpu = [](const PlacedShard& shard) { return shard.device.kind == Device::Kind::kCuda; };
    if (shards.size() == 1) return {Exchange::kHost, "one rank"};
    if (std::none_of(shards.begin(), shards.end(), on_gpu)) return {Exchange::kHost, "no rank computes on a GPU"};
    for (std::size_t i = 0; i < shards.size(); ++i) {
      if (!on_gpu(shards[i])) {
        return {Exchange::kStaged, "rank " + std::to_string(i) + " computes on " + shards[i].device.to_string()};
      }
      for (std::size_t j = 0; j < i; ++j) {
        if (!shards[j].device.overlaps(shards[i].device)) continue;
        return {Exchange::kStaged,
                "ranks " + std::to_string(j) + " and " + std::to_string(i) + " share " + shards[i].device.to_string()};
      }
    }
    return {Exchange::kNccl, "each rank has a GPU to itself"};
  }

  // Of a replica, whose scheduler has its place.
  PlannedActor* place_draft(std::uint32_t replica) {
    const SpeculationSpec& spec = topology_.speculation;
    const std::string node = spec.node->empty() ? plan_.find(scheduler_name(replica))->node : *spec.node;
    const auto& devices = topology_.find_node(node)->devices;
    if (!spec.device && devices.empty()) {
      diagnostics_.error(spec.kind.place, "the draft has nothing to compute on: node '" + node +
                                              "' has no devices; name another one, speculation.draft.node, or give it "
                                              "`devices:`");
      return nullptr;
    }
    const Placed<Device> device = spec.device ? *spec.device : devices.front();
    if (const auto why = why_unusable(machine_, *device)) {
      diagnostics_.error(device.place, "the draft on " + device->to_string() + ": " + *why);
    }
    PlannedActor& draft = add(PlannedActor::Kind::kDraft, draft_name(replica), node,
                              spec.node->empty() ? "beside the scheduler" : "placed by the file");
    draft.device = *device;
    return &draft;
  }

  PlannedActor& add(PlannedActor::Kind kind, std::string name, const std::string& node, std::string reason) {
    PlannedActor actor;
    actor.kind = kind;
    actor.name = std::move(name);
    actor.node = node;
    actor.reason = std::move(reason);
    plan_.actors.push_back(std::move(actor));
    return plan_.actors.back();
  }

  void warn_of_idle_nodes() {
    if (diagnostics_.has_errors()) return;
    std::set<std::string> used;
    for (const PlannedActor& actor : plan_.actors) used.insert(actor.node);
    for (const NodeSpec& node : topology_.nodes) {
      if (!used.contains(*node.name)) {
        diagnostics_.warning(node.name.place, "nothing runs on node '" + *node.name + "'");
      }
    }
  }

  const model::ModelConfig& model_;
  const Topology& topology_;
  const Machine& machine_;
  const model::ModelConfig* const draft_;  // may be null
  std::vector<PlacedStage> stages_;
  Diagnostics diagnostics_;
  Plan plan_;
};

}  // namespace

const PlannedActor* Plan::find(const std::string& name) const {
  const auto found = std::find_if(actors.begin(), actors.end(), [&](const PlannedActor& a) { return a.name == name; });
  return found == actors.end() ? nullptr : &*found;
}

Planning make_plan(const model::ModelConfig& model, const Topology& topology, const Machine& machine,
                   const model::ModelConfig* draft) {
  return Planner(model, topology, machine, draft).run();
}

}  // namespace troupe::cluster
