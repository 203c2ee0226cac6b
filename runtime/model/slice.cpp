#include "runtime/model/slice.h"

#include <algorithm>
#include <numeric>
#include <string_view>

#include "kernels/quant.h"

namespace troupe::model {
namespace {

std::string describe(const Slice& slice) {
  return "layers " + std::to_string(slice.first_layer) + " to " + std::to_string(slice.last_layer) + " of " +
         std::to_string(slice.num_layers) + ", rank " + std::to_string(slice.rank) + " of " +
         std::to_string(slice.world_size);
}

// Builds the list of tensor_slices.
class SliceList {
 public:
  SliceList(const ModelConfig& config, const Slice& slice)
      : config_(config), shape_(rank_shape(config, slice)), experts_(held_experts(config, slice)) {}

  void matrix(TensorRole role, std::string name, std::uint64_t rows, std::uint64_t cols, Range row_range,
              Range col_range, std::uint32_t expert = 0) {
    list_.push_back({role, layer_, std::move(name), false, rows, cols, row_range, col_range, expert});
  }
  void vector(TensorRole role, std::string name, std::uint64_t size, Range range) {
    list_.push_back({role, layer_, std::move(name), true, 1, size, {0, 1}, range});
  }
  void whole_vector(TensorRole role, std::string name, std::uint64_t size) {
    vector(role, std::move(name), size, {0, size});
  }

  void embedding(TensorRole role, std::string name) {
    matrix(role, std::move(name), config_.vocab_size, config_.hidden_size, shape_.vocab, {0, config_.hidden_size});
  }

  void layer(std::uint32_t index, bool owns_output_biases) {
    layer_ = index;
    const std::string prefix = "model.layers." + std::to_string(index) + ".";
    const std::string attention = prefix + "self_attn.";
    const std::uint64_t hidden = config_.hidden_size;
    const std::uint64_t head_dim = config_.head_dim;
    const std::uint64_t query_size = config_.num_heads * head_dim;
    const Range heads = {shape_.heads.first * head_dim, shape_.heads.last * head_dim};

    whole_vector(TensorRole::kAttentionNorm, prefix + "input_layernorm.weight", hidden);
    split_rows(TensorRole::kQuery, TensorRole::kQueryBias, attention + "q_proj", query_size, heads, config_.qkv_bias);
    const std::uint64_t kv_size = config_.num_kv_heads * head_dim;
    const Range kv_heads = {shape_.kv_heads.first * head_dim, shape_.kv_heads.last * head_dim};
    split_rows(TensorRole::kKey, TensorRole::kKeyBias, attention + "k_proj", kv_size, kv_heads, config_.qkv_bias);
    split_rows(TensorRole::kValue, TensorRole::kValueBias, attention + "v_proj", kv_size, kv_heads, config_.qkv_bias);
    if (config_.qk_norm) {
      whole_vector(TensorRole::kQueryNorm, attention + "q_norm.weight", head_dim);
      whole_vector(TensorRole::kKeyNorm, attention + "k_norm.weight", head_dim);
    }
    matrix(TensorRole::kOutput, attention + "o_proj.weight", hidden, query_size, {0, hidden}, heads);
    if (config_.output_bias && owns_output_biases) {
      whole_vector(TensorRole::kOutputBias, attention + "o_proj.bias", hidden);
    }

    whole_vector(TensorRole::kMlpNorm, prefix + "post_attention_layernorm.weight", hidden);
    if (config_.has_experts(index)) {
      mixture(prefix + "mlp.");
    } else {
      mlp(prefix + "mlp.", owns_output_biases);
    }
    layer_ = 0;
  }

  // The experts that the shard holds of a layer that has experts.
  void experts(std::uint32_t index) {
    layer_ = index;
    experts("model.layers." + std::to_string(index) + ".mlp.");
    layer_ = 0;
  }

  std::vector<TensorSlice> take() { return std::move(list_); }

 private:
  void mlp(const std::string& mlp, bool owns_output_biases) {
    const std::uint64_t hidden = config_.hidden_size;
    const bool among_experts = config_.num_experts != 0;
    const std::uint64_t intermediate = among_experts ? config_.dense_intermediate_size : config_.intermediate_size;
    const Range part = among_experts ? shape_.dense : shape_.intermediate;
    split_rows(TensorRole::kGate, TensorRole::kGateBias, mlp + "gate_proj", intermediate, part, config_.mlp_bias);
    split_rows(TensorRole::kUp, TensorRole::kUpBias, mlp + "up_proj", intermediate, part, config_.mlp_bias);
    matrix(TensorRole::kDown, mlp + "down_proj.weight", hidden, intermediate, {0, hidden}, part);
    if (config_.mlp_bias && owns_output_biases) {
      whole_vector(TensorRole::kDownBias, mlp + "down_proj.bias", hidden);
    }
  }

  void experts(const std::string& mlp) {
    const std::uint64_t hidden = config_.hidden_size;
    const auto each = [&](TensorRole role, const std::string& name, bool to_hidden) {
      for (auto expert = static_cast<std::uint32_t>(experts_.first); expert < experts_.last; ++expert) {
        const std::string tensor = mlp + "experts." + std::to_string(expert) + "." + name;
        if (to_hidden) {
          matrix(role, tensor, hidden, config_.intermediate_size, {0, hidden}, shape_.intermediate, expert);
        } else {
          matrix(role, tensor, config_.intermediate_size, hidden, shape_.intermediate, {0, hidden}, expert);
        }
      }
    };
    each(TensorRole::kExpertGate, "gate_proj.weight", false);
    each(TensorRole::kExpertUp, "up_proj.weight", false);
    each(TensorRole::kExpertDown, "down_proj.weight", true);
  }

  // Every rank routes for itself, and has a part of the shared expert.
  void mixture(const std::string& mlp) {
    const std::uint64_t hidden = config_.hidden_size;
    const std::uint32_t count = config_.num_experts;
    matrix(TensorRole::kRouter, mlp + "gate.weight", count, hidden, {0, count}, {0, hidden});
    experts(mlp);
    if (config_.shared_intermediate_size == 0) return;
    const std::uint64_t shared = config_.shared_intermediate_size;
    whole_vector(TensorRole::kSharedRouter, mlp + "shared_expert_gate.weight", hidden);
    matrix(TensorRole::kSharedGate, mlp + "shared_expert.gate_proj.weight", shared, hidden, shape_.shared, {0, hidden});
    matrix(TensorRole::kSharedUp, mlp + "shared_expert.up_proj.weight", shared, hidden, shape_.shared, {0, hidden});
    matrix(TensorRole::kSharedDown, mlp + "shared_expert.down_proj.weight", hidden, shared, {0, hidden}, shape_.shared);
  }

  // A projection whose output features are divided among the ranks.
  void split_rows(TensorRole role, TensorRole bias_role, const std::string& name, std::uint64_t rows, Range range,
                  bool has_bias) {
    matrix(role, name + ".weight", rows, config_.hidden_size, range, {0, config_.hidden_size});
    if (has_bias) vector(bias_role, name + ".bias", rows, range);
  }

  const ModelConfig& config_;
  RankShape shape_;
  Range experts_;
  std::uint32_t layer_ = 0;
  std::vector<TensorSlice> list_;
};

// The largest of what the formats of the tensors whose names end so demand.
template <class Demand>
std::uint64_t largest(const ModelConfig& config, std::string_view ending, Demand demand) {
  std::uint64_t largest = demand(config.dtype);
  for (const auto& [tensor, dtype] : config.stored_types) {
    if (tensor.ends_with(ending)) largest = std::max<std::uint64_t>(largest, demand(dtype));
  }
  return largest;
}

std::uint64_t rows_unit(kernels::DType dtype) { return kernels::is_panel_format(dtype) ? kernels::kPanelOuts : 1; }

// How many pieces of `size` make a multiple of `unit`.
std::uint64_t pieces_of(std::uint64_t size, std::uint64_t unit) { return unit / std::gcd(unit, size); }

std::uint64_t units_in(std::uint64_t total, std::uint64_t unit) { return (total + unit - 1) / unit; }

// The part of a rank of [0, total), cut between whole units only; the last unit may be a smaller rest.
Range even_units(std::uint64_t total, std::uint64_t unit, std::uint32_t rank, std::uint32_t world_size) {
  const Range part = even_part(units_in(total, unit), rank, world_size);
  return {std::min(part.first * unit, total), std::min(part.last * unit, total)};
}

// Whether every rank gets whole blocks of the quantised formats.
Result<void> check_units(const ModelConfig& config, const Slice& slice) {
  const std::uint32_t world = slice.world_size;
  const Units units = slicing_units(config);
  const auto refuse = [&](const std::string& tensor, std::uint64_t most) {
    return invalid_argument(std::to_string(world) + " tensor-parallel ranks cannot share " + tensor +
                                ", which is stored in blocks that no cut may go through; use at most " +
                                std::to_string(most) + (most == 1 ? " rank" : " ranks") +
                                ", or a model quantised in smaller blocks, such as Q8_0",
                            tensor);
  };
  const std::uint64_t most_heads = units_in(config.num_kv_heads, units.kv_heads);
  if (config.num_kv_heads >= world ? most_heads < world
                                   : units.kv_heads != 1 || config.num_heads / world % units.heads != 0) {
    return refuse("o_proj", most_heads);
  }
  const std::uint64_t most_intermediate = units_in(config.intermediate_size, units.intermediate);
  if (slice.expert_shards == 0 && most_intermediate < world) return refuse("down_proj", most_intermediate);
  const std::uint64_t most_shared = units_in(config.shared_intermediate_size, units.intermediate);
  if (config.shared_intermediate_size != 0 && most_shared < world) return refuse("shared_expert", most_shared);
  const std::uint64_t most_dense = units_in(config.dense_intermediate_size, units.intermediate);
  if (config.dense_intermediate_size != 0 && most_dense < world) return refuse("down_proj", most_dense);
  const std::uint64_t most_vocab = units_in(config.vocab_size, units.vocab);
  if (most_vocab < world) return refuse("lm_head", most_vocab);
  return {};
}

}  // namespace

Range even_part(std::uint64_t total, std::uint32_t rank, std::uint32_t world_size) {
  return {total * rank / world_size, total * (rank + 1) / world_size};
}

bool has_experts(const ModelConfig& config, const Slice& slice) {
  for (std::uint32_t layer = slice.first_layer; layer < slice.last_layer; ++layer) {
    if (config.has_experts(layer)) return true;
  }
  return false;
}

Range held_experts(const ModelConfig& config, const Slice& slice) {
  if (slice.expert_shard) return even_part(config.num_experts, *slice.expert_shard, slice.expert_shards);
  return {0, slice.expert_shards == 0 ? config.num_experts : 0};
}

bool asks_experts(const Slice& slice) { return !slice.expert_shard && slice.rank < slice.expert_shards; }

Units slicing_units(const ModelConfig& config) {
  const auto columns = [&](std::string_view name) { return largest(config, name, kernels::block_elements); };
  const std::uint64_t rows = largest(config, "", rows_unit);
  const std::uint64_t group = config.num_heads / config.num_kv_heads;
  const std::uint64_t output_columns = columns("self_attn.o_proj.weight");
  Units units;
  units.intermediate = std::lcm(columns(".down_proj.weight"), rows);  // of the experts, too
  units.kv_heads = std::lcm(pieces_of(group * config.head_dim, output_columns), pieces_of(config.head_dim, rows));
  units.heads = std::lcm(pieces_of(config.head_dim, output_columns), pieces_of(config.head_dim, rows));
  units.vocab = rows;
  return units;
}

RankShape rank_shape(const ModelConfig& config, const Slice& slice) {
  RankShape shape;
  const Units units = slicing_units(config);
  if (config.num_kv_heads >= slice.world_size) {
    const std::uint64_t group = config.num_heads / config.num_kv_heads;
    shape.kv_heads = even_units(config.num_kv_heads, units.kv_heads, slice.rank, slice.world_size);
    shape.heads = {shape.kv_heads.first * group, shape.kv_heads.last * group};
  } else {
    const std::uint64_t ranks_per_kv_head = slice.world_size / config.num_kv_heads;
    shape.heads = even_part(config.num_heads, slice.rank, slice.world_size);
    shape.kv_heads = {slice.rank / ranks_per_kv_head, slice.rank / ranks_per_kv_head + 1};
  }
  shape.intermediate = even_units(config.intermediate_size, units.intermediate, slice.rank, slice.world_size);
  shape.shared = even_units(config.shared_intermediate_size, units.intermediate, slice.rank, slice.world_size);
  shape.dense = even_units(config.dense_intermediate_size, units.intermediate, slice.rank, slice.world_size);
  shape.vocab = even_units(config.vocab_size, units.vocab, slice.rank, slice.world_size);
  return shape;
}

Result<void> check_expert_shards(const ModelConfig& config, const Slice& slice) {
  if (slice.expert_shards == 0 && !slice.expert_shard) return {};
  if (config.num_experts == 0) {
    return invalid_argument("the model has no experts that expert shards could hold; leave them out", "num_experts");
  }
  if (!has_experts(config, slice)) {
    return invalid_argument("none of the layers " + std::to_string(slice.first_layer) + " to " +
                                std::to_string(slice.last_layer - 1) +
                                " has experts that expert shards could hold; leave them out",
                            "num_experts");
  }
  if (slice.expert_shards > config.num_experts) {
    return invalid_argument(std::to_string(slice.expert_shards) + " expert shards are more than the " +
                                std::to_string(config.num_experts) + " experts of a layer; use at most " +
                                std::to_string(config.num_experts),
                            "num_experts");
  }
  if (slice.expert_shard && *slice.expert_shard >= slice.expert_shards) {
    return invalid_argument("expert shard " + std::to_string(*slice.expert_shard) + " of " +
                                std::to_string(slice.expert_shards) + ": its number must be less than theirs",
                            "expert");
  }
  return {};
}

Result<void> check_slice(const ModelConfig& config, const Slice& slice) {
  if (slice.num_layers != config.num_layers || slice.first_layer >= slice.last_layer ||
      slice.last_layer > slice.num_layers) {
    return invalid_argument("a shard of " + describe(slice) + " does not fit num_hidden_layers = " +
                                std::to_string(config.num_layers) + " of config.json; give every stage at least one",
                            "num_hidden_layers");
  }
  if (slice.world_size == 0 || slice.rank >= slice.world_size) {
    return invalid_argument("a shard of " + describe(slice) + ": the rank must be less than the number of ranks",
                            "rank");
  }
  TROUPE_RETURN_IF_ERROR(check_expert_shards(config, slice));
  const std::uint32_t world = slice.world_size;
  if (config.num_kv_heads < world && (world % config.num_kv_heads != 0 || config.num_heads % world != 0)) {
    return invalid_argument(
        std::to_string(world) + " tensor-parallel ranks cannot share num_key_value_heads = " +
            std::to_string(config.num_kv_heads) + " and num_attention_heads = " + std::to_string(config.num_heads) +
            " of config.json; use at most num_key_value_heads ranks, or a multiple of it that divides "
            "num_attention_heads",
        "num_key_value_heads");
  }
  if (slice.expert_shards == 0 && config.intermediate_size < world) {
    return invalid_argument(std::to_string(world) + " tensor-parallel ranks are more than intermediate_size = " +
                                std::to_string(config.intermediate_size) + " of config.json",
                            "intermediate_size");
  }
  if (config.shared_intermediate_size != 0 && config.shared_intermediate_size < world) {
    return invalid_argument(std::to_string(world) +
                                " tensor-parallel ranks are more than shared_expert_intermediate_size = " +
                                std::to_string(config.shared_intermediate_size) + " of config.json",
                            "shared_expert_intermediate_size");
  }
  if (config.dense_intermediate_size != 0 && config.dense_intermediate_size < world) {
    return invalid_argument(std::to_string(world) + " tensor-parallel ranks are more than intermediate_size = " +
                                std::to_string(config.dense_intermediate_size) + " of config.json",
                            "intermediate_size");
  }
  if (config.vocab_size < world) {
    return invalid_argument(std::to_string(world) + " tensor-parallel ranks are more than vocab_size = " +
                                std::to_string(config.vocab_size) + " of config.json",
                            "vocab_size");
  }
  return check_units(config, slice);
}

std::vector<TensorSlice> tensor_slices(const ModelConfig& config, const Slice& slice) {
  static const std::string kTable = "model.embed_tokens.weight";
  SliceList list(config, slice);
  if (slice.expert_shard) {
    for (std::uint32_t layer = slice.first_layer; layer < slice.last_layer; ++layer) {
      if (config.has_experts(layer)) list.experts(layer);
    }
    return list.take();
  }
  if (slice.is_first_stage()) list.embedding(TensorRole::kEmbedding, kTable);
  for (std::uint32_t layer = slice.first_layer; layer < slice.last_layer; ++layer) list.layer(layer, slice.rank == 0);
  if (slice.is_last_stage()) {
    list.whole_vector(TensorRole::kFinalNorm, "model.norm.weight", config.hidden_size);
    list.embedding(TensorRole::kLmHead, config.tie_word_embeddings ? kTable : "lm_head.weight");
  }
  return list.take();
}

std::uint64_t stored_bytes(const ModelConfig& config, const TensorSlice& tensor) {
  const kernels::DType dtype = config.stored_type(tensor.name);
  const std::uint64_t rows = tensor.row_range.size();
  const std::uint64_t scales = dtype == kernels::DType::kInt8 ? rows * sizeof(float) : 0;
  return kernels::matrix_bytes(dtype, rows, tensor.col_range.size()) + scales;
}

std::uint64_t weight_bytes(const ModelConfig& config, const Slice& slice) {
  std::uint64_t bytes = 0;
  for (const TensorSlice& tensor : tensor_slices(config, slice)) bytes += stored_bytes(config, tensor);
  return bytes;
}

std::uint64_t bytes_per_block(const ModelConfig& config, const Slice& slice, std::uint32_t block_size,
                              kernels::DType kv_dtype) {
  const std::uint64_t kv_heads = rank_shape(config, slice).kv_heads.size();
  const std::uint64_t scale = kernels::has_page_scales(kv_dtype) ? sizeof(float) : 0;
  const std::uint64_t of_a_head = config.head_dim * kernels::size_of(kv_dtype) + scale;
  return 2 * slice.layer_count() * kv_heads * block_size * of_a_head;
}

}  // namespace troupe::model
