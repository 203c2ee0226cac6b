#include "cluster/device_checks.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <utility>

#include "actors/names.h"

namespace troupe::cluster {
namespace {

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

// "a, b and c", or the first few "and N others".
std::string list_of(const std::vector<std::string>& names) {
  constexpr std::size_t kMost = 6;
  const std::size_t shown = names.size() <= kMost ? names.size() - 1 : kMost - 1;
  std::string text = names[0];
  for (std::size_t i = 1; i < shown; ++i) text += ", " + names[i];
  const std::size_t left = names.size() - shown;
  return text + " and " + (left == 1 ? names.back() : std::to_string(left) + " others");
}

std::string version_text(int tenths) { return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10); }

// The first core of the device that is not there.
std::optional<std::uint32_t> absent_core(const Machine& machine, const Device& device) {
  for (std::uint32_t core = device.first; core <= device.last; ++core) {
    if (!std::binary_search(machine.cores.begin(), machine.cores.end(), core)) return core;
  }
  return std::nullopt;
}

// Who computes on each core and each GPU.
class DeviceUsers {
 public:
  void add(const PlacedShard& shard, const std::string& name) {
    for (std::uint32_t index = shard.device.first; index <= shard.device.last; ++index) {
      Users& users = users_[{shard.device.kind, index}];
      users.names.push_back(name);
      users.last_place = shard.place;
    }
  }

  // Cores shared by the same ones make one warning.
  void warn_of_shared(Diagnostics& diagnostics) const {
    std::set<std::vector<std::string>> warned;
    for (const auto& [unit, users] : users_) {
      if (users.names.size() < 2 || !warned.insert(users.names).second) continue;
      const std::string shared = (unit.first == Device::Kind::kCpu ? "core " : "cuda:") + std::to_string(unit.second);
      diagnostics.warning(users.last_place, shared + " is shared by " + list_of(users.names));
    }
  }

 private:
  struct Users {
    std::vector<std::string> names;
    Place last_place;
  };
  std::map<std::pair<Device::Kind, std::uint32_t>, Users> users_;
};

}  // namespace

std::optional<std::string> why_unusable(const Machine& machine, const Device& device) {
  if (device.kind == Device::Kind::kCpu) {
    const auto absent = absent_core(machine, device);
    if (!absent) return std::nullopt;
    return "there is no core " + std::to_string(*absent) + " for it; use " + devices_text(machine.cores);
  }
  if (machine.gpus.empty()) return machine.why_no_gpus;
  if (device.first >= machine.gpus.size()) {
    return "there " + (machine.gpus.size() == 1
                           ? "is one GPU, cuda:0"
                           : "are " + std::to_string(machine.gpus.size()) + " GPUs, from cuda:0 on");
  }
  const kernels::GpuInfo& gpu = machine.gpus[device.first];
  if (gpu.compute_capability >= kernels::kMinComputeCapability) return std::nullopt;
  return "this GPU, " + gpu.name + ", has compute capability " + version_text(gpu.compute_capability) +
         "; the kernels need " + version_text(kernels::kMinComputeCapability) + " (Ampere) or newer; use cpu:N";
}

void check_devices(const model::ModelConfig& model, const Machine& machine, const std::vector<PlacedStage>& stages,
                   Diagnostics& diagnostics) {
  DeviceUsers users;
  const auto is_usable = [&](const PlacedShard& shard, const std::string& name) {
    const auto why = why_unusable(machine, shard.device);
    if (why) diagnostics.error(shard.place, name + " on " + shard.device.to_string() + ": " + *why);
    return !why;
  };
  for (const PlacedStage& stage : stages) {
    for (std::uint32_t rank = 0; rank < stage.shards.size(); ++rank) {
      const PlacedShard& shard = stage.shards[rank];
      const std::string name = shard_name(stage.replica, stage.index, rank);
      if (!is_usable(shard, name)) continue;
      if (shard.device.kind == Device::Kind::kCuda && model.head_dim > kernels::kMaxGpuHeadDim) {
        diagnostics.error(shard.place, name + " on " + shard.device.to_string() + ": the model's head_dim is " +
                                           std::to_string(model.head_dim) + ", and kernels for GPUs take up to " +
                                           std::to_string(kernels::kMaxGpuHeadDim) + "; use cpu:N");
        continue;
      }
      users.add(shard, name);
    }
    for (std::uint32_t number = 0; number < stage.experts.size(); ++number) {
      const std::string name = expert_name(stage.replica, stage.index, number);
      if (is_usable(stage.experts[number], name)) users.add(stage.experts[number], name);
    }
  }
  users.warn_of_shared(diagnostics);
}

}  // namespace troupe::cluster
