#include "cluster/kv_sizing.h"

#include <algorithm>
#include <cstdint>
#include <string>

#include "cluster/kv_share.h"
#include "cluster/plan_costs.h"
#include "runtime/model/slice.h"

namespace troupe::cluster {
namespace {

class KvSizing {
 public:
  KvSizing(const model::ModelConfig& model, const Machine& machine, const Topology& topology, Plan& plan,
           Diagnostics& diagnostics)
      : model_(model), machine_(machine), topology_(topology), plan_(plan), diagnostics_(diagnostics) {}

  void run() {
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

    const Place memory_place = place_of_limit(topology_, "kv_memory");
    const Place len_place = place_of_limit(topology_, "max_model_len");
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

 private:
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

  const model::ModelConfig& model_;
  const Machine& machine_;
  const Topology& topology_;
  Plan& plan_;
  Diagnostics& diagnostics_;
};

}  // namespace

void size_kv(const model::ModelConfig& model, const Machine& machine, const Topology& topology, Plan& plan,
             Diagnostics& diagnostics) {
  KvSizing(model, machine, topology, plan, diagnostics).run();
}

Place place_of_limit(const Topology& topology, std::string_view limit) {
  for (const LimitOverride& given : topology.limit_overrides) {
    if (given.name == limit) return given.value.place;
  }
  return {};
}

}  // namespace troupe::cluster
