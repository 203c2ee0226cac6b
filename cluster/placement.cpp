#include "cluster/placement.h"

#include <algorithm>
#include <cstddef>
#include <string_view>
#include <utility>

#include "runtime/model/slice.h"

namespace troupe::cluster {
namespace {

std::string layers_text(std::uint32_t first, std::uint32_t last) {
  return first + 1 == last ? "layer " + std::to_string(first)
                           : "layers " + std::to_string(first) + "-" + std::to_string(last - 1);
}

std::vector<PlacedShard> placed_by_file(const std::vector<Placed<ShardPlace>>& given) {
  std::vector<PlacedShard> placed;
  for (const auto& shard : given) placed.push_back({shard->node, shard->device, shard.place, "placed by the file"});
  return placed;
}

std::vector<PlacedStage> stages_of_file(const model::ModelConfig& model, const Topology& topology,
                                        Diagnostics& diagnostics) {
  const auto& given_stages = topology.place.stages;
  std::vector<PlacedStage> stages;
  for (std::size_t i = 0; i < given_stages.size(); ++i) {
    const StagePlace& given = given_stages[i];
    const bool same_replica = !stages.empty() && stages.back().replica == *given.replica;
    if (given.last_layer > model.num_layers) {
      diagnostics.error(given.layers_place, layers_text(given.first_layer, given.last_layer) +
                                                " go beyond the model's " + std::to_string(model.num_layers) +
                                                " layers (0-" + std::to_string(model.num_layers - 1) + ")");
    }
    stages.push_back({.replica = *given.replica,
                      .index = same_replica ? stages.back().index + 1 : 0,
                      .first_layer = given.first_layer,
                      .last_layer = given.last_layer,
                      .place = given.place,
                      .shards = placed_by_file(given.shards),
                      .experts = placed_by_file(given.experts)});
    const bool is_last = i + 1 == given_stages.size() || *given_stages[i + 1].replica != *given.replica;
    if (is_last && given.last_layer < model.num_layers) {
      diagnostics.error(given.layers_place, layers_text(given.last_layer, model.num_layers) + " of the model belong" +
                                                (given.last_layer + 1 == model.num_layers ? "s" : "") +
                                                " to no stage; it has " + std::to_string(model.num_layers) + " layers");
    }
  }
  return stages;
}

// A place for each of so many `guests` ("shards", "experts"), on the devices in their order. Neighbours stay together:
// ranks of one stage talk most.
std::vector<PlacedShard> spread(std::size_t count, std::string_view guests, std::vector<PlacedShard> devices) {
  if (count <= devices.size()) {
    devices.resize(count);
    return devices;
  }
  std::vector<PlacedShard> placed;
  for (std::size_t d = 0; d < devices.size(); ++d) {
    const std::size_t first = d * count / devices.size();
    const std::size_t sharing = (d + 1) * count / devices.size() - first;
    const std::uint32_t cores = devices[d].device.cores();
    for (std::size_t guest = 0; guest < sharing; ++guest) {
      PlacedShard shard = devices[d];
      if (sharing > 1 && cores >= sharing) {
        shard.device.first += static_cast<std::uint32_t>(guest * cores / sharing);
        shard.device.last = devices[d].device.first + static_cast<std::uint32_t>((guest + 1) * cores / sharing) - 1;
        shard.reason = "a part of " + devices[d].device.to_string();
      } else if (sharing > 1) {
        shard.reason = "more " + std::string(guests) + " than devices: " + std::to_string(sharing) + " share " +
                       devices[d].device.to_string();
      }
      placed.push_back(std::move(shard));
    }
  }
  return placed;
}

class StagePlanner {
 public:
  StagePlanner(const model::ModelConfig& model, const Topology& topology, Diagnostics& diagnostics)
      : model_(model), topology_(topology), diagnostics_(diagnostics) {}

  std::vector<PlacedStage> run() {
    const std::uint32_t count = *topology_.parallel.pipeline;
    if (count > model_.num_layers) {
      diagnostics_.error(topology_.parallel.pipeline.place, std::to_string(count) + " stages for a model of " +
                                                                std::to_string(model_.num_layers) +
                                                                " layers; a stage has at least one layer");
      return {};
    }
    const std::vector<PlacedShard> devices = devices_of_file();
    if (devices.empty()) return {};
    std::vector<PlacedStage> stages;
    for (std::uint32_t replica = 0; replica < *topology_.parallel.replicas; ++replica) {
      std::uint32_t next = 0;
      for (std::uint32_t i = 0; i < count; ++i) {
        const std::uint32_t layers = model_.num_layers / count + (i < model_.num_layers % count ? 1 : 0);
        stages.push_back({.replica = replica,
                          .index = i,
                          .first_layer = next,
                          .last_layer = next + layers,
                          .place = topology_.parallel.tensor.place,
                          .shards = {},
                          .experts = {}});
        next += layers;
      }
    }
    place_shards(devices, stages);
    place_experts(devices, stages);
    return stages;
  }

 private:
  std::vector<PlacedShard> devices_of_file() {
    std::vector<PlacedShard> devices;
    for (const NodeSpec& node : topology_.nodes) {
      for (const auto& device : node.devices) {
        devices.push_back({*node.name, *device, device.place, "the next device of the file"});
      }
    }
    if (devices.empty()) {
      diagnostics_.error(topology_.nodes.front().name.place,
                         "no node has devices to compute on; give one `devices: [cpu:0]`");
    }
    return devices;
  }

  void place_shards(const std::vector<PlacedShard>& devices, std::vector<PlacedStage>& stages) const {
    const std::size_t ranks = *topology_.parallel.tensor;
    const std::vector<PlacedShard> shards = spread(stages.size() * ranks, "shards", devices);
    for (std::size_t i = 0; i < stages.size(); ++i) {
      const auto first = shards.begin() + static_cast<std::ptrdiff_t>(i * ranks);
      stages[i].shards.assign(first, first + static_cast<std::ptrdiff_t>(ranks));
    }
  }

  // Behind the shards; where no device is left, beside them: they wait while experts compute.
  void place_experts(const std::vector<PlacedShard>& devices, std::vector<PlacedStage>& stages) const {
    const Placed<std::uint32_t>& each = topology_.parallel.expert;
    if (*each == 1) return;
    if (model_.num_experts == 0) {
      diagnostics_.error(each.place, "the model has no experts; leave `expert` out, or write 1");
      return;
    }
    std::vector<PlacedStage*> with_experts;
    for (PlacedStage& stage : stages) {
      const model::Slice slice = {stage.first_layer, stage.last_layer, model_.num_layers};
      if (model::has_experts(model_, slice)) with_experts.push_back(&stage);
    }
    const std::size_t shards = stages.size() * *topology_.parallel.tensor;
    const auto left = devices.begin() + static_cast<std::ptrdiff_t>(shards < devices.size() ? shards : 0);
    const std::vector<PlacedShard> experts =
        spread(with_experts.size() * *each, "experts", std::vector<PlacedShard>(left, devices.end()));
    auto next = experts.begin();
    for (PlacedStage* stage : with_experts) {
      stage->experts.assign(next, next + *each);
      next += *each;
    }
  }

  const model::ModelConfig& model_;
  const Topology& topology_;
  Diagnostics& diagnostics_;
};

}  // namespace

std::vector<PlacedStage> place_stages(const model::ModelConfig& model, const Topology& topology,
                                      Diagnostics& diagnostics) {
  if (!topology.place.stages.empty()) return stages_of_file(model, topology, diagnostics);
  return StagePlanner(model, topology, diagnostics).run();
}

}  // namespace troupe::cluster
