#include "cluster/plan.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "actors/names.h"
#include "cluster/kv_share.h"
#include "cluster/plan_costs.h"
#include "cluster/plan_memory.h"
#include "runtime/model/config.h"
#include "runtime/model/slice.h"

namespace troupe::cluster {
namespace {

std::string layers_text(std::uint32_t first, std::uint32_t last) {
  return first + 1 == last ? "layer " + std::to_string(first)
                           : "layers " + std::to_string(first) + "-" + std::to_string(last - 1);
}

// "cpu:0-3 or cpu:8" for 0, 1, 2, 3 and 8.
std::string devices_text(const std::vector<std::uint32_t>& cores) {
  std::vector<std::string> devices;
  for (std::size_t i = 0; i < cores.size();) {
    std::size_t end = i + 1;
    while (end < cores.size() && cores[end] == cores[end - 1] + 1) ++end;
    devices.push_back(Device{Device::Kind::kCpu, cores[i], cores[end - 1]}.to_string());
    i = end;
  }
  return any_of(devices);
}

// One shard with the place that a complaint about it points at.
struct PlacedShard {
  std::string node;
  Device device;
  Place place;
  std::string reason;
};

struct PlacedStage {
  std::uint32_t replica = 0;
  std::uint32_t index = 0;  // within its replica
  std::uint32_t first_layer = 0;
  std::uint32_t last_layer = 0;
  Place place;
  std::vector<PlacedShard> shards;
};

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
    stages_ = topology_.place.stages.empty() ? stages_by_planner() : stages_of_file();
    check_devices();
    check_slices();
    if (!diagnostics_.has_errors()) place_actors();
    if (!diagnostics_.has_errors()) size_kv();
    if (!diagnostics_.has_errors()) {
      add_memory(model_, draft_, topology_.limits, plan_);
      check_memory(machine_, plan_, place_of_limit("kv_memory"), diagnostics_);
    }
    if (!diagnostics_.has_errors()) add_costs(model_, machine_, plan_);
    warn_of_idle_nodes();

    Planning planning;
    if (!diagnostics_.has_errors()) planning.plan = std::move(plan_);
    planning.diagnostics = diagnostics_.take();
    return planning;
  }

 private:
  std::vector<PlacedStage> stages_of_file() {
    std::vector<PlacedStage> stages;
    for (std::size_t i = 0; i < topology_.place.stages.size(); ++i) {
      const StagePlace& given = topology_.place.stages[i];
      const bool same_replica = !stages.empty() && stages.back().replica == *given.replica;
      PlacedStage stage{*given.replica,    same_replica ? stages.back().index + 1 : 0,
                        given.first_layer, given.last_layer,
                        given.place,       {}};
      if (given.last_layer > model_.num_layers) {
        diagnostics_.error(given.layers_place, layers_text(given.first_layer, given.last_layer) +
                                                   " go beyond the model's " + std::to_string(model_.num_layers) +
                                                   " layers (0-" + std::to_string(model_.num_layers - 1) + ")");
      }
      for (const auto& shard : given.shards) {
        stage.shards.push_back({shard->node, shard->device, shard.place, "placed by the file"});
      }
      stages.push_back(std::move(stage));
      const bool is_last =
          i + 1 == topology_.place.stages.size() || *topology_.place.stages[i + 1].replica != *given.replica;
      if (is_last && given.last_layer < model_.num_layers) {
        diagnostics_.error(given.layers_place,
                           layers_text(given.last_layer, model_.num_layers) + " of the model belong" +
                               (given.last_layer + 1 == model_.num_layers ? "s" : "") + " to no stage; it has " +
                               std::to_string(model_.num_layers) + " layers");
      }
    }
    return stages;
  }

  std::vector<PlacedStage> stages_by_planner() {
    const std::uint32_t count = *topology_.parallel.pipeline;
    const std::uint32_t ranks = *topology_.parallel.tensor;
    if (count > model_.num_layers) {
      diagnostics_.error(topology_.parallel.pipeline.place, std::to_string(count) + " stages for a model of " +
                                                                std::to_string(model_.num_layers) +
                                                                " layers; a stage has at least one layer");
      return {};
    }
    const std::uint32_t replicas = *topology_.parallel.replicas;
    const std::vector<PlacedShard> shards = spread(std::size_t{replicas} * count * ranks);
    if (shards.empty()) return {};
    std::vector<PlacedStage> stages;
    auto shard = shards.begin();
    for (std::uint32_t replica = 0; replica < replicas; ++replica) {
      std::uint32_t next = 0;
      for (std::uint32_t i = 0; i < count; ++i, shard += ranks) {
        const std::uint32_t layers = model_.num_layers / count + (i < model_.num_layers % count ? 1 : 0);
        stages.push_back({replica, i, next, next + layers, topology_.parallel.tensor.place, {shard, shard + ranks}});
        next += layers;
      }
    }
    return stages;
  }

  // Devices for so many shards, in the order of the file. Neighbours stay together: ranks of one stage talk most.
  std::vector<PlacedShard> spread(std::size_t count) {
    std::vector<PlacedShard> devices;
    for (const NodeSpec& node : topology_.nodes) {
      for (const auto& device : node.devices) devices.push_back({*node.name, *device, device.place, ""});
    }
    if (devices.empty()) {
      diagnostics_.error(topology_.nodes.front().name.place,
                         "no node has devices to compute on; give one `devices: [cpu:0]`");
      return {};
    }
    std::vector<PlacedShard> shards;
    if (count <= devices.size()) {
      devices.resize(count);
      for (PlacedShard& shard : devices) shard.reason = "the next device of the file";
      return devices;
    }
    for (std::size_t d = 0; d < devices.size(); ++d) {
      const std::size_t first = d * count / devices.size();
      const std::size_t guests = (d + 1) * count / devices.size() - first;
      const std::uint32_t cores = devices[d].device.cores();
      for (std::size_t guest = 0; guest < guests; ++guest) {
        PlacedShard shard = devices[d];
        shard.reason = "the next device of the file";
        if (guests > 1 && cores >= guests) {
          shard.device.first += static_cast<std::uint32_t>(guest * cores / guests);
          shard.device.last = devices[d].device.first + static_cast<std::uint32_t>((guest + 1) * cores / guests) - 1;
          shard.reason = "a part of " + devices[d].device.to_string();
        } else if (guests > 1) {
          shard.reason =
              "more shards than devices: " + std::to_string(guests) + " share " + devices[d].device.to_string();
        }
        shards.push_back(std::move(shard));
      }
    }
    return shards;
  }

  void check_devices() {
    using Unit = std::pair<Device::Kind, std::uint32_t>;  // a core or a GPU
    std::map<Unit, std::vector<std::string>> shards_of_unit;
    std::map<Unit, Place> last_place;
    for (std::size_t s = 0; s < stages_.size(); ++s) {
      for (std::size_t r = 0; r < stages_[s].shards.size(); ++r) {
        const PlacedShard& shard = stages_[s].shards[r];
        const std::string name = shard_name(stages_[s].replica, stages_[s].index, static_cast<std::uint32_t>(r));
        if (const auto why = why_unusable(shard.device)) {
          diagnostics_.error(shard.place, name + " on " + shard.device.to_string() + ": " + *why);
          continue;
        }
        if (shard.device.kind == Device::Kind::kCuda && model_.head_dim > kernels::kMaxGpuHeadDim) {
          diagnostics_.error(shard.place, name + " on " + shard.device.to_string() + ": the model's head_dim is " +
                                              std::to_string(model_.head_dim) + ", and kernels for GPUs take up to " +
                                              std::to_string(kernels::kMaxGpuHeadDim) + "; use cpu:N");
          continue;
        }
        for (std::uint32_t index = shard.device.first; index <= shard.device.last; ++index) {
          shards_of_unit[{shard.device.kind, index}].push_back(name);
          last_place[{shard.device.kind, index}] = shard.place;
        }
      }
    }
    // Cores shared by the same shards make one warning.
    std::set<std::vector<std::string>> warned;
    for (const auto& [unit, shards] : shards_of_unit) {
      if (shards.size() < 2 || !warned.insert(shards).second) continue;
      const std::string shared = (unit.first == Device::Kind::kCpu ? "core " : "cuda:") + std::to_string(unit.second);
      diagnostics_.warning(last_place[unit], shared + " is shared by " + list_of(shards));
    }
  }

  static std::string list_of(const std::vector<std::string>& names) {
    std::string text = names[0];
    for (std::size_t i = 1; i < names.size(); ++i) text += (i + 1 == names.size() ? " and " : ", ") + names[i];
    return text;
  }

  // Why this machine cannot compute on the device, with what it can do instead.
  std::optional<std::string> why_unusable(const Device& device) const {
    if (device.kind == Device::Kind::kCpu) {
      const auto absent = absent_core(device);
      if (!absent) return std::nullopt;
      return "there is no core " + std::to_string(*absent) + " for it; use " + devices_text(machine_.cores);
    }
    if (machine_.gpus.empty()) return machine_.why_no_gpus;
    if (device.first >= machine_.gpus.size()) {
      return "there " + (machine_.gpus.size() == 1
                             ? "is one GPU, cuda:0"
                             : "are " + std::to_string(machine_.gpus.size()) + " GPUs, from cuda:0 on");
    }
    const kernels::GpuInfo& gpu = machine_.gpus[device.first];
    if (gpu.compute_capability >= kernels::kMinComputeCapability) return std::nullopt;
    return "this GPU, " + gpu.name + ", has compute capability " + version_text(gpu.compute_capability) +
           "; the kernels need " + version_text(kernels::kMinComputeCapability) + " (Ampere) or newer; use cpu:N";
  }

  static std::string version_text(int tenths) {
    return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10);
  }

  // Weights and pages of the shards of each GPU; what else they need depends on the step.
  // The first core of the device that is not there.
  std::optional<std::uint32_t> absent_core(const Device& device) const {
    for (std::uint32_t core = device.first; core <= device.last; ++core) {
      if (!std::binary_search(machine_.cores.begin(), machine_.cores.end(), core)) return core;
    }
    return std::nullopt;
  }

  void check_slices() {
    if (diagnostics_.has_errors()) return;
    for (std::size_t s = 0; s < stages_.size(); ++s) {
      const PlacedStage& stage = stages_[s];
      const auto ranks = static_cast<std::uint32_t>(stage.shards.size());
      const model::Slice slice{stage.first_layer, stage.last_layer, model_.num_layers, 0, ranks};
      if (auto checked = model::check_slice(model_, slice); !checked.ok()) {
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
    }
  }

  // Of the replica of that first stage. Only who draws tokens can go on with what nobody else knows yet. A core
  // computes nothing while it is not asked to, and loses little by waiting for the next step.
  bool looks_ahead(const PlacedStage& first, std::uint32_t stages) {
    const bool one_shard = stages == 1 && first.shards.size() == 1;
    switch (*topology_.lookahead) {
      case Lookahead::kOff: return false;
      case Lookahead::kAuto: return one_shard && first.shards.front().device.kind == Device::Kind::kCuda;
      case Lookahead::kOn: break;
    }
    if (!one_shard) {
      diagnostics_.error(topology_.lookahead.place, "lookahead: on needs replicas of one shard, but replica " +
                                                        std::to_string(first.replica) +
                                                        " has more; write auto, or give it one stage of one shard");
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
    if (const auto why = why_unusable(*device)) {
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

  void size_kv() {
    const Limits& limits = topology_.limits;
    const auto block_size = static_cast<std::uint32_t>(limits.block_size);
    std::uint64_t blocks = UINT32_MAX;
    const PlannedActor* tightest = nullptr;
    for (const PlannedActor& actor : plan_.actors) {
      if (actor.kind != PlannedActor::Kind::kShard) continue;
      const std::uint64_t fit = kv_memory_of(actor) / block_bytes(actor);
      if (fit < blocks) {
        blocks = fit;
        tightest = &actor;
      }
    }

    const Place memory_place = place_of_limit("kv_memory");
    const Place len_place = place_of_limit("max_model_len");
    if (blocks == 0) {
      const std::string held =
          " holds not one block of " + std::to_string(block_size) + " tokens on " + tightest->name + "; ";
      diagnostics_.error(memory_place,
                         kv_memory_text(*tightest) + held +
                             (takes_what_is_left(*tightest)
                                  ? "quantise the model, share it out among more devices, or end who uses this one"
                                  : "raise limits.kv_memory"));
      return;
    }
    std::uint64_t max_len = limits.max_model_len > 0 ? limits.max_model_len : model_.max_position_embeddings;
    if (max_len > model_.max_position_embeddings) {
      diagnostics_.error(len_place, "max_model_len " + std::to_string(max_len) + " is beyond the model's " +
                                        std::to_string(model_.max_position_embeddings) + " positions");
      return;
    }
    if (max_len > blocks * block_size) {
      const std::string held =
          kv_memory_text(*tightest) + " holds " + std::to_string(blocks * block_size) + " tokens on " + tightest->name;
      if (limits.max_model_len > 0) {
        diagnostics_.error(len_place, "max_model_len is " + std::to_string(max_len) + ", but " + held +
                                          "; raise limits.kv_memory or lower max_model_len");
        return;
      }
      diagnostics_.warning(memory_place,
                           held + ": max_model_len becomes that instead of the model's " + std::to_string(max_len));
      max_len = blocks * block_size;
    }
    if (!is_given("kv_memory")) {
      const std::uint64_t useful = limits.max_batch_sequences * ((max_len + block_size - 1) / block_size);
      blocks = std::min(blocks, useful);
    }

    plan_.max_model_len = static_cast<std::uint32_t>(max_len);
    plan_.block_size = block_size;
    plan_.num_blocks = static_cast<std::uint32_t>(blocks);
    // More than the pages of all that may run are of no use to those that had to stop.
    const std::uint64_t most_swapped = limits.max_batch_sequences * ((max_len + block_size - 1) / block_size);
    plan_.num_swap_blocks = static_cast<std::uint32_t>(
        std::min({limits.swap_memory / block_bytes(*tightest), most_swapped, UINT32_MAX - blocks}));
  }

  // Whether the pages of a shard take what its device has left: a GPU's, if nobody says how much.
  bool takes_what_is_left(const PlannedActor& shard) const {
    return shard.device->kind == Device::Kind::kCuda && !is_given("kv_memory");
  }

  std::uint64_t kv_memory_of(const PlannedActor& shard) const {
    if (!takes_what_is_left(shard)) return topology_.limits.kv_memory;
    return kv_share(model_, machine_, topology_.limits, plan_, shard);
  }

  std::string kv_memory_text(const PlannedActor& shard) const {
    const std::string bytes = " (" + std::to_string(kv_memory_of(shard)) + " bytes)";
    if (!takes_what_is_left(shard)) return "kv_memory" + bytes;
    const kernels::GpuInfo& gpu = machine_.gpus[shard.device->first];
    return "what weights, scratch and a reserve leave of the " + std::to_string(gpu.free_bytes) + " bytes free on " +
           shard.device->to_string() + bytes;
  }

  std::uint64_t block_bytes(const PlannedActor& shard) const {
    const auto block_size = static_cast<std::uint32_t>(topology_.limits.block_size);
    return model::bytes_per_block(model_, slice_of(plan_, shard), block_size, plan_.kv_dtype);
  }

  // By the file, or by a command's option.
  bool is_given(std::string_view limit) const {
    return std::ranges::any_of(topology_.limit_overrides,
                               [&](const LimitOverride& given) { return given.name == limit; });
  }

  Place place_of_limit(std::string_view name) const {
    for (const LimitOverride& given : topology_.limit_overrides) {
      if (given.name == name) return given.value.place;
    }
    return {};
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

static std::uint64_t main_memory_bytes() {
  const long pages = ::sysconf(_SC_PHYS_PAGES), page_bytes = ::sysconf(_SC_PAGESIZE);
  std::uint64_t bytes = pages > 0 && page_bytes > 0 ? static_cast<std::uint64_t>(pages) * page_bytes : 0;
  // Of a container; "max", which is no number, where there is no limit.
  std::uint64_t limit = 0;
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit && (bytes == 0 || limit < bytes)) bytes = limit;
  return bytes;
}

Machine this_machine(bool with_gpus) {
  Machine machine;
  if (with_gpus) {
    if (auto gpus = kernels::list_gpus(); gpus.ok()) {
      machine.gpus = *std::move(gpus);
    } else {
      machine.why_no_gpus = gpus.error().message;
    }
  }
  machine.memory_bytes = main_memory_bytes();
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return machine;
  machine.cores.clear();
  for (std::uint32_t core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &allowed)) machine.cores.push_back(core);
  }
  return machine;
}

bool names_gpus(const Topology& topology) {
  const auto& draft = topology.speculation.device;
  if (draft && (*draft)->kind == Device::Kind::kCuda) return true;
  return std::any_of(topology.nodes.begin(), topology.nodes.end(), [](const NodeSpec& node) {
    return std::any_of(node.devices.begin(), node.devices.end(),
                       [](const Placed<Device>& device) { return device->kind == Device::Kind::kCuda; });
  });
}

const PlannedActor* Plan::find(const std::string& name) const {
  const auto found = std::find_if(actors.begin(), actors.end(), [&](const PlannedActor& a) { return a.name == name; });
  return found == actors.end() ? nullptr : &*found;
}

Planning make_plan(const model::ModelConfig& model, const Topology& topology, const Machine& machine,
                   const model::ModelConfig* draft) {
  return Planner(model, topology, machine, draft).run();
}

}  // namespace troupe::cluster
