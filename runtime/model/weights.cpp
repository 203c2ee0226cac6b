#include "runtime/model/weights.h"

#include <algorithm>
#include <cassert>
#include <map>
#include <optional>
#include <utility>

#include "kernels/quant.h"
#include "runtime/model/read_ahead.h"

namespace troupe::model {
namespace {

// The vector or matrix of a layer that a tensor fills.
std::span<const float>& vector_for(TensorRole role, LayerWeights& layer) {
  switch (role) {
    case TensorRole::kAttentionNorm: return layer.attention_norm;
    case TensorRole::kMlpNorm: return layer.mlp_norm;
    case TensorRole::kQueryNorm: return layer.query_norm;
    case TensorRole::kKeyNorm: return layer.key_norm;
    case TensorRole::kQueryBias: return layer.query.bias;
    case TensorRole::kKeyBias: return layer.key.bias;
    case TensorRole::kValueBias: return layer.value.bias;
    case TensorRole::kOutputBias: return layer.output.bias;
    case TensorRole::kGateBias: return layer.mlp.gate.bias;
    case TensorRole::kUpBias: return layer.mlp.up.bias;
    case TensorRole::kSharedRouter: return layer.shared_router;
    default: assert(role == TensorRole::kDownBias); return layer.mlp.down.bias;
  }
}

// first_expert: that the shard holds.
Linear& matrix_for(const TensorSlice& tensor, std::uint64_t first_expert, LayerWeights& layer) {
  switch (tensor.role) {
    case TensorRole::kQuery: return layer.query;
    case TensorRole::kKey: return layer.key;
    case TensorRole::kValue: return layer.value;
    case TensorRole::kOutput: return layer.output;
    case TensorRole::kGate: return layer.mlp.gate;
    case TensorRole::kUp: return layer.mlp.up;
    case TensorRole::kDown: return layer.mlp.down;
    case TensorRole::kRouter: return layer.router;
    case TensorRole::kExpertGate: return layer.experts[tensor.expert - first_expert].gate;
    case TensorRole::kExpertUp: return layer.experts[tensor.expert - first_expert].up;
    case TensorRole::kExpertDown: return layer.experts[tensor.expert - first_expert].down;
    case TensorRole::kSharedGate: return layer.shared.gate;
    case TensorRole::kSharedUp: return layer.shared.up;
    default: assert(tensor.role == TensorRole::kSharedDown); return layer.shared.down;
  }
}

// Projections to heads are packed so that an operation can have each head whole.
bool makes_heads(TensorRole role) {
  return role == TensorRole::kQuery || role == TensorRole::kKey || role == TensorRole::kValue;
}

std::uint64_t scale_bytes(kernels::DType dtype, std::uint64_t rows) {
  return dtype == kernels::DType::kInt8 ? rows * sizeof(float) : 0;
}

// What a tensor takes in the arena of a shard.
std::uint64_t bytes_in_arena(const TensorSlice& tensor, kernels::DType dtype, bool on_host,
                             const kernels::Kernels& kernels) {
  const std::uint64_t rows = tensor.row_range.size(), cols = tensor.col_range.size();
  if (tensor.is_vector) return Arena::rounded(tensor.elements() * sizeof(float));
  if (tensor.role != TensorRole::kEmbedding) return Arena::rounded(kernels.packed_bytes(dtype, rows, cols));
  if (on_host) return 0;  // it stays in its file
  return Arena::rounded(kernels::matrix_bytes(dtype, rows, cols)) + Arena::rounded(scale_bytes(dtype, rows));
}

Result<std::uint64_t> bytes_in_arena(Checkpoint& checkpoint, std::span<const TensorSlice> tensors, bool on_host,
                                     const ModelConfig& config, const kernels::Kernels& kernels) {
  TROUPE_ASSIGN_OR_RETURN(const auto dtypes, checkpoint.dtypes_of(tensors));
  std::uint64_t bytes = Arena::rounded(config.head_dim / 2 * sizeof(float));  // frequencies, if it has any use for them
  for (std::size_t i = 0; i < tensors.size(); ++i) bytes += bytes_in_arena(tensors[i], dtypes[i], on_host, kernels);
  return bytes;
}

// The values in the arena, which has room for them.
std::span<const float> stored(const std::vector<float>& values, Arena& arena, kernels::DeviceMemory& memory) {
  auto* data = static_cast<float*>(arena.take(values.size() * sizeof(float)));
  memory.upload(data, values.data(), values.size() * sizeof(float));
  return {data, values.size()};
}

// A copy of the embedding table, whose rows are whole, in the arena.
void move_table(kernels::WeightView& view, Arena& arena, kernels::DeviceMemory& memory) {
  assert(view.row_stride == view.cols);
  const std::uint64_t bytes = kernels::matrix_bytes(view.dtype, view.rows, view.cols);
  void* data = arena.take(bytes);
  memory.upload(data, view.data, bytes);
  view.data = data;
  if (view.scales == nullptr) return;
  auto* scales = static_cast<float*>(arena.take(scale_bytes(view.dtype, view.rows)));
  memory.upload(scales, view.scales, scale_bytes(view.dtype, view.rows));
  view.scales = scales;
}

// What the kernels make of the layer's experts, once all of them are packed.
Result<std::unique_ptr<kernels::Mixture>> mixture_of(const LayerWeights& layer, const ModelConfig& config,
                                                     kernels::Kernels& kernels) {
  std::vector<kernels::ExpertWeights> experts;
  for (const MlpWeights& expert : layer.experts) {
    experts.push_back({expert.gate.weight.get(), expert.up.weight.get(), expert.down.weight.get()});
  }
  return kernels.make_mixture(experts, {config.num_experts_per_token, config.normalise_experts});
}

bool is_of_a_layer(TensorRole role) {
  return role != TensorRole::kEmbedding && role != TensorRole::kFinalNorm && role != TensorRole::kLmHead;
}

}  // namespace

void PackedSize::add(const kernels::PackedWeight& weight) {
  bytes += weight.bytes();
  elements += std::uint64_t{weight.rows()} * weight.cols();
}

ArenaLevel ShardWeights::level(bool is_on_host) const {
  ArenaLevel level = arena.level("weights");
  if (!is_on_host) return level;
  // A packed matrix has memory of its own there, or is read from its file.
  for (const PackedSize& packed : {layers_size, experts_size, lm_head_size}) {
    for (std::uint64_t* bytes : {&level.capacity, &level.used, &level.peak}) *bytes += packed.bytes;
  }
  return level;
}

Result<std::uint64_t> ShardWeights::arena_bytes(const std::filesystem::path& model, const ModelConfig& config,
                                                const Slice& slice, kernels::Kernels& kernels, const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::open(model, limits));
  return bytes_in_arena(checkpoint, tensor_slices(config, slice), kernels.memory().is_host(), config, kernels);
}

Result<ShardWeights> ShardWeights::load(const std::filesystem::path& model, const ModelConfig& config,
                                        const Slice& slice, kernels::Kernels& kernels,
                                        const std::filesystem::path& packed_cache, const ProgressCallback& progress,
                                        const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::open(model, limits));
  ShardWeights weights{std::move(checkpoint)};
  const Range held = held_experts(config, slice);
  weights.layers.resize(slice.layer_count());
  for (std::uint32_t i = 0; i < slice.layer_count(); ++i) {
    if (config.has_experts(slice.first_layer + i)) weights.layers[i].experts.resize(held.size());
  }
  std::map<kernels::DType, std::uint64_t> elements_of;
  const std::vector<TensorSlice> tensors = tensor_slices(config, slice);
  // What the file holds may differ from config.dtype, so that the total is only known once its headers are read.
  TROUPE_ASSIGN_OR_RETURN(const std::uint64_t bytes_total, weights.checkpoint.bytes_of(tensors));

  kernels::DeviceMemory& memory = kernels.memory();
  TROUPE_ASSIGN_OR_RETURN(const std::uint64_t arena_bytes,
                          bytes_in_arena(weights.checkpoint, tensors, memory.is_host(), config, kernels));
  TROUPE_ASSIGN_OR_RETURN(weights.arena, Arena::create(arena_bytes, "weights", memory));
  if (!slice.expert_shard) {
    weights.inverse_frequencies = stored(model::inverse_frequencies(config), weights.arena, memory);
  }

  TROUPE_ASSIGN_OR_RETURN(auto places, weights.checkpoint.places_of(tensors));
  std::optional<PackedCacheKey> key;
  std::unique_ptr<PackedCache> cache;
  if (!packed_cache.empty()) {
    TROUPE_ASSIGN_OR_RETURN(key, packed_cache_key(packed_cache, model, slice, kernels.name()));
    cache = PackedCache::open(*key, limits);
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto image = cache ? cache->image(i) : std::span<const std::byte>();
    if (!image.empty()) places[i] = image;
    // A step reads a few rows of the embedding table: on the host it stays in its file.
    if (tensors[i].role == TensorRole::kEmbedding && memory.is_host()) places[i] = {};
  }
  std::vector<PackedImage> images;
  ReadAhead read_ahead(std::move(places));
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorSlice& tensor = tensors[i];
    read_ahead.advance(i);
    LayerWeights* layer = is_of_a_layer(tensor.role) ? &weights.layers[tensor.layer - slice.first_layer] : nullptr;
    if (tensor.is_vector) {
      TROUPE_ASSIGN_OR_RETURN(auto values, weights.checkpoint.vector(tensor));
      (layer != nullptr ? vector_for(tensor.role, *layer) : weights.final_norm) = stored(values, weights.arena, memory);
    } else {
      TROUPE_ASSIGN_OR_RETURN(LoadedMatrix matrix, weights.checkpoint.matrix(tensor));
      // What a device has is a copy of its own.
      if (matrix.copy && memory.is_host()) weights.copies.push_back(std::move(matrix.copy));
      if (tensor.role == TensorRole::kEmbedding) {
        weights.embedding = matrix.view;
        if (!memory.is_host()) move_table(weights.embedding, weights.arena, memory);
      } else {
        Linear& linear = layer != nullptr ? matrix_for(tensor, held.first, *layer) : weights.lm_head;
        const auto image = cache ? cache->image(i) : std::span<const std::byte>();
        const std::uint64_t place_bytes = kernels.packed_bytes(matrix.view.dtype, matrix.view.rows, matrix.view.cols);
        void* const place = place_bytes != 0 ? weights.arena.take(place_bytes) : nullptr;
        TROUPE_ASSIGN_OR_RETURN(
            linear.weight, kernels.pack(matrix.view, makes_heads(tensor.role) ? config.head_dim : 0, image, place));
        if (!linear.weight->image().empty()) images.push_back({i, linear.weight->image()});
        PackedSize& size = layer == nullptr               ? weights.lm_head_size
                           : is_of_an_expert(tensor.role) ? weights.experts_size
                                                          : weights.layers_size;
        size.add(*linear.weight);
        elements_of[matrix.view.dtype] += tensor.elements();
      }
    }
    if (progress) progress(weights.checkpoint.bytes_read(), bytes_total);
  }
  for (LayerWeights& layer : weights.layers) {
    if (layer.experts.empty() || slice.expert_shard) continue;
    TROUPE_ASSIGN_OR_RETURN(layer.mixture, mixture_of(layer, config, kernels));
  }
  const auto most = std::max_element(elements_of.begin(), elements_of.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  if (most != elements_of.end()) weights.stored_dtype = most->first;
  TROUPE_RETURN_IF_ERROR(memory.synchronize());
  if (key && !cache && !images.empty()) {
    weights.writer = std::make_unique<PackedCacheWriter>(*std::move(key), std::move(images));
  }
  return weights;
}

}  // namespace troupe::model
