#include "runtime/model/expert_shard.h"

#include <algorithm>
#include <cassert>
#include <string>
#include <utility>

namespace troupe::model {
namespace {

std::uint64_t most_pairs(const ModelConfig& config, const Slice& slice, std::uint64_t rows) {
  return rows * std::min<std::uint64_t>(config.num_experts_per_token, held_experts(config, slice).size());
}

// to(:) += weight * from(:).
void add_weighted(float weight, const float* from, std::size_t cols, float* to) {
  for (std::size_t col = 0; col < cols; ++col) to[col] += weight * from[col];
}

}  // namespace

ScratchBytes expert_scratch_bytes(const ModelConfig& config, const Slice& slice, std::uint32_t max_batch_tokens,
                                  bool on_host) {
  const std::uint64_t rows = on_host ? max_batch_tokens : most_pairs(config, slice, max_batch_tokens);
  const std::uint64_t hidden = Arena::rounded(rows * config.hidden_size * sizeof(float));
  const std::uint64_t gated = Arena::rounded(rows * config.intermediate_size * sizeof(float));
  return {.device = 2 * hidden + gated, .host = on_host ? 0 : 2 * hidden};
}

Result<std::unique_ptr<ExpertShard>> ExpertShard::load(const std::filesystem::path& model, const ModelConfig& config,
                                                       const Slice& slice, kernels::Kernels& kernels,
                                                       const ExpertShardOptions& options,
                                                       const ProgressCallback& progress, const Limits& limits) {
  if (options.max_batch_tokens == 0) return invalid_argument("a step holds at least one token", "max_batch_tokens");
  TROUPE_RETURN_IF_ERROR(check_slice(config, slice));
  assert(slice.expert_shard);
  kernels::DeviceMemory& memory = kernels.memory();
  const ScratchBytes bytes = expert_scratch_bytes(config, slice, options.max_batch_tokens, memory.is_host());
  if (!memory.is_host()) {
    ArenaBytes wanted = {.scratch = bytes.device};
    TROUPE_ASSIGN_OR_RETURN(wanted.weights, ShardWeights::arena_bytes(model, config, slice, kernels, limits));
    TROUPE_RETURN_IF_ERROR(check_room(wanted, memory));
  }
  const char* purpose = "scratch of experts (limit max_batch_tokens)";
  TROUPE_ASSIGN_OR_RETURN(Arena arena, Arena::create(bytes.device, purpose, memory));
  TROUPE_ASSIGN_OR_RETURN(Arena host_arena, Arena::create(bytes.host, purpose, memory.pinned()));
  TROUPE_ASSIGN_OR_RETURN(ShardWeights weights,
                          ShardWeights::load(model, config, slice, kernels, options.packed_cache, progress, limits));
  return std::unique_ptr<ExpertShard>(
      new ExpertShard(config, slice, kernels, options, std::move(weights), std::move(arena), std::move(host_arena)));
}

ExpertShard::ExpertShard(const ModelConfig& config, const Slice& slice, kernels::Kernels& kernels,
                         const ExpertShardOptions& options, ShardWeights weights, Arena arena, Arena host_arena)
    : config_(config),
      slice_(slice),
      held_(held_experts(config, slice)),
      kernels_(&kernels),
      options_(options),
      weights_(std::move(weights)),
      arena_(std::move(arena)),
      host_arena_(std::move(host_arena)) {
  const bool on_host = kernels.memory().is_host();
  const std::uint64_t rows = on_host ? options.max_batch_tokens : most_pairs(config, slice, options.max_batch_tokens);
  room_.in = arena_.take_matrix(rows, config.hidden_size);
  room_.gated = arena_.take_matrix(rows, config.intermediate_size);
  room_.out = arena_.take_matrix(rows, config.hidden_size);
  if (on_host) return;
  room_.outgoing = host_arena_.take_matrix(rows, config.hidden_size);
  room_.incoming = host_arena_.take_matrix(rows, config.hidden_size);
}

Result<void> ExpertShard::check(std::uint32_t layer, kernels::ConstMatrixF32 rows, const ExpertPairs& pairs) const {
  if (layer < slice_.first_layer || layer >= slice_.last_layer || !config_.has_experts(layer)) {
    return invalid_argument("layer " + std::to_string(layer) + " has no experts here", "layer");
  }
  if (rows.rows > options_.max_batch_tokens || rows.cols != config_.hidden_size) {
    return invalid_argument("rows are (" + std::to_string(rows.rows) + ", " + std::to_string(rows.cols) +
                                "); at most (" + std::to_string(options_.max_batch_tokens) + ", " +
                                std::to_string(config_.hidden_size) + ") fit (limit max_batch_tokens)",
                            "rows");
  }
  if (pairs.experts.size() != pairs.size() || pairs.weights.size() != pairs.size()) {
    return invalid_argument("pairs have " + std::to_string(pairs.rows.size()) + " rows, " +
                                std::to_string(pairs.experts.size()) + " experts and " +
                                std::to_string(pairs.weights.size()) + " weights",
                            "pair_rows");
  }
  if (pairs.size() > most_pairs(config_, slice_, rows.rows)) {
    return invalid_argument(std::to_string(pairs.size()) + " pairs of " + std::to_string(rows.rows) +
                                " rows are more than the " + std::to_string(config_.num_experts_per_token) +
                                " experts that a row has",
                            "pair_rows");
  }
  for (std::size_t pair = 0; pair < pairs.size(); ++pair) {
    const auto refuse = [&](const std::string& why, const char* param) {
      return invalid_argument("pair " + std::to_string(pair) + why, param);
    };
    if (pairs.rows[pair] >= rows.rows) {
      return refuse(": there is no row " + std::to_string(pairs.rows[pair]), "pair_rows");
    }
    if (pairs.experts[pair] < held_.first || pairs.experts[pair] >= held_.last) {
      return refuse(": expert " + std::to_string(pairs.experts[pair]) + " is not one of " +
                        std::to_string(held_.first) + " to " + std::to_string(held_.last - 1),
                    "pair_experts");
    }
    if (pair == 0) continue;
    const auto before = std::pair(pairs.experts[pair - 1], pairs.rows[pair - 1]);
    if (!(before < std::pair(pairs.experts[pair], pairs.rows[pair]))) {
      return refuse(" does not come after the one before it: they ascend by expert, then by row", "pair_experts");
    }
  }
  return {};
}

Result<void> ExpertShard::compute(std::uint32_t layer, kernels::ConstMatrixF32 rows, const ExpertPairs& pairs,
                                  kernels::MatrixF32 sum) {
  assert(sum.rows == rows.rows && sum.cols == rows.cols);
  TROUPE_RETURN_IF_ERROR(check(layer, rows, pairs));
  for (std::size_t row = 0; row < sum.rows; ++row) std::fill_n(sum.row(row), sum.cols, 0.0f);
  kernels::DeviceMemory& memory = kernels_->memory();
  const bool on_host = memory.is_host();
  const std::vector<MlpWeights>& experts = weights_.layers[layer - slice_.first_layer].experts;
  const auto add = [&](const kernels::MatrixF32& made, std::size_t first) {
    for (std::size_t i = 0; i < made.rows; ++i) {
      add_weighted(pairs.weights[first + i], made.row(i), sum.cols, sum.row(pairs.rows[first + i]));
    }
  };
  for (std::size_t first = 0, last = 0; first < pairs.size(); first = last) {
    while (last < pairs.size() && pairs.experts[last] == pairs.experts[first]) ++last;
    const std::size_t count = last - first, place = on_host ? 0 : first;
    const std::uint64_t bytes = count * sum.cols * sizeof(float);
    const kernels::MatrixF32 in = room_.in.rows_from(place, count), gated = room_.gated.rows_from(place, count),
                             out = room_.out.rows_from(place, count);
    const kernels::MatrixF32 gathered = on_host ? in : room_.outgoing.rows_from(place, count);
    for (std::size_t i = 0; i < count; ++i) std::copy_n(rows.row(pairs.rows[first + i]), sum.cols, gathered.row(i));
    if (!on_host) memory.copy_in(in.data, gathered.data, bytes);
    const MlpWeights& expert = experts[pairs.experts[first] - held_.first];
    kernels_->swiglu(in, expert.gate.view(), expert.up.view(), gated);
    kernels_->linear(gated, expert.down.view(), out);
    if (on_host) {
      add(out, first);
    } else {
      memory.copy_out(room_.incoming.row(place), out.data, bytes);
    }
  }
  if (on_host) return {};
  TROUPE_RETURN_IF_ERROR(memory.synchronize());
  add(room_.incoming.rows_from(0, pairs.size()), 0);
  return {};
}

Result<std::vector<ArenaLevel>> ExpertShard::memory_levels() const {
  kernels::DeviceMemory& memory = kernels_->memory();
  std::vector<ArenaLevel> levels = {weights_.level(memory.is_host()), arena_.level("scratch"),
                                    host_arena_.level("host_scratch")};
  TROUPE_RETURN_IF_ERROR(add_device_levels(memory, weights_.arena.capacity() + arena_.capacity(), levels));
  return levels;
}

}  // namespace troupe::model
