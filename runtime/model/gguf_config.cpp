#include "runtime/model/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <string_view>

#include "runtime/base/log.h"
#include "runtime/model/gguf_tensors.h"
#include "runtime/model/shape.h"
#include "runtime/model/slice.h"

namespace troupe::model {
namespace {

enum class Experts : std::uint8_t {
  kNone,
  kByKey,  // those that the metadata counts
  kAlways,
};

// What llama.cpp's graph of an architecture fixes.
struct Family {
  std::string_view architecture;
  kernels::RopeLayout layout;  // llama.cpp's converter permutes the rows of q and k for the interleaved one
  bool qk_norm;
  bool frequency_divisors;  // uses rope_freqs.weight
  Experts experts = Experts::kNone;
  bool normalise_experts = false;
  bool shared_expert = false;
};

constexpr Family kFamilies[] = {
    {"llama", kernels::RopeLayout::kInterleaved, false, true, Experts::kByKey, true},
    {"mistral3", kernels::RopeLayout::kInterleaved, false, true},
    {"qwen2", kernels::RopeLayout::kHalves, false, false},
    {"qwen2moe", kernels::RopeLayout::kHalves, false, false, Experts::kAlways, false, true},
    {"qwen3", kernels::RopeLayout::kHalves, true, false},
    {"qwen3moe", kernels::RopeLayout::kHalves, true, false, Experts::kAlways, true},
};
constexpr std::string_view kSupported = "llama, mistral3, qwen2, qwen2moe, qwen3, qwen3moe";

constexpr std::uint64_t kLeastTensorsOfALayer = 9;  // so that no list of layers is made of a claim alone

constexpr std::string_view kRopeFrequencies = "rope_freqs.weight";
constexpr double kDefaultRopeTheta = 10000.0;

// Keys that change what the model computes in ways that this code does not know, and the value that changes nothing.
struct Neutral {
  std::string_view key;
  double value;
};
constexpr Neutral kNeutral[] = {
    {"attention.scale", 0},
    {"attention.clamp_kqv", 0},
    {"attention.max_alibi_bias", 0},
    {"attention.temperature_scale", 0},
    {"attn_logit_softcapping", 0},
    {"final_logit_softcapping", 0},
    {"logit_scale", 0},
    {"embedding_scale", 0},
    {"residual_scale", 0},
    {"rope.scaling.attn_factor", 1},
    {"rope.scaling.yarn_log_multiplier", 0},
    {"leading_dense_block_count", 0},
    {"expert_group_count", 1},
    {"expert_gating_func", 1},  // softmax
    {"expert_weights_scale", 1},
};

// Tokens that end an answer whatever the metadata names as the end, as llama.cpp has them.
constexpr std::string_view kEndings[] = {"<|eot_id|>",    "<|im_end|>",        "<|end|>", "<end_of_turn>",
                                         "<|endoftext|>", "<|end_of_text|>",   "<EOT>",   "_<EOT>",
                                         "<|eom_id|>",    "<end_of_utterance>"};

// "llama.KEY" for KEY.
class Keys {
 public:
  explicit Keys(std::string_view architecture) : prefix_(std::string(architecture) + ".") {}
  std::string operator()(std::string_view key) const { return prefix_ + std::string(key); }

 private:
  std::string prefix_;
};

Error unknown_architecture(const GgufMetadata& metadata, std::string_view name) {
  return metadata.refused("general.architecture",
                          "is \"" + printable(name, 60) + "\"; supported: " + std::string(kSupported));
}

Result<const Family*> family_of(const GgufMetadata& metadata) {
  TROUPE_ASSIGN_OR_RETURN(const std::string_view name, metadata.string("general.architecture"));
  const Keys key(name);
  const auto family = std::find_if(std::begin(kFamilies), std::end(kFamilies),
                                   [&](const Family& known) { return known.architecture == name; });
  if (family == std::end(kFamilies)) return unknown_architecture(metadata, name);
  TROUPE_ASSIGN_OR_RETURN(const auto parts, metadata.unsigned_integer("split.count", 0, kMaxWidth, 0));
  if (parts > 1) {
    return metadata.refused("split.count", "is " + std::to_string(parts) +
                                               ": one of several files; join them with llama-gguf-split --merge");
  }
  for (const Neutral& neutral : kNeutral) {
    TROUPE_ASSIGN_OR_RETURN(const double value, metadata.number(key(neutral.key), neutral.value));
    if (value != neutral.value) {
      return metadata.refused(key(neutral.key), "is " + std::to_string(value) + ", which is not computed");
    }
  }
  TROUPE_ASSIGN_OR_RETURN(const bool causal, metadata.boolean(key("attention.causal"), true));
  if (!causal) return metadata.refused(key("attention.causal"), "is false; supported: models that generate text");
  return &*family;
}

Result<std::uint32_t> integer(const GgufMetadata& metadata, const std::string& key, std::uint32_t min,
                              std::uint32_t max, std::optional<std::uint64_t> otherwise = {}) {
  TROUPE_ASSIGN_OR_RETURN(const auto value, metadata.unsigned_integer(key, min, max, otherwise));
  return static_cast<std::uint32_t>(value);
}

// The widths of the MLP, or how many experts there are in its place and how they are chosen.
// REQUIRES: out.num_layers is read.
Result<void> read_mlp(const GgufMetadata& metadata, const Keys& key, const Family& family, ModelConfig& out) {
  const std::string count_key = key("expert_count");
  if (family.experts == Experts::kAlways || metadata.contains(count_key)) {
    const std::uint32_t least = family.experts == Experts::kAlways ? 1 : 0;
    TROUPE_ASSIGN_OR_RETURN(out.num_experts, integer(metadata, count_key, least, kMaxExperts));
  }
  if (out.num_experts != 0 && family.experts == Experts::kNone) {
    return metadata.refused(count_key, "is " + std::to_string(out.num_experts) + "; the architecture \"" +
                                           std::string(family.architecture) + "\" is computed without experts");
  }
  if (out.num_experts > kMaxModelExperts / out.num_layers) {
    return metadata.corrupt(count_key, "is " + std::to_string(out.num_experts) + " for each of " +
                                           std::to_string(out.num_layers) + " layers; at most " +
                                           std::to_string(kMaxModelExperts) + " experts in all are supported");
  }
  const bool has_width = out.num_experts != 0 && metadata.contains(key("expert_feed_forward_length"));
  std::uint32_t mlp_width = 0;
  if (!has_width || metadata.contains(key("feed_forward_length"))) {
    TROUPE_ASSIGN_OR_RETURN(mlp_width, integer(metadata, key("feed_forward_length"), 1, kMaxWidth));
  }
  out.intermediate_size = mlp_width;
  if (out.num_experts == 0) return {};

  TROUPE_ASSIGN_OR_RETURN(out.num_experts_per_token, integer(metadata, key("expert_used_count"), 1, out.num_experts));
  out.normalise_experts = family.normalise_experts;
  TROUPE_ASSIGN_OR_RETURN(const bool normalise, metadata.boolean(key("expert_weights_norm"), out.normalise_experts));
  if (normalise != out.normalise_experts) {
    return metadata.refused(key("expert_weights_norm"), "is " + std::string(normalise ? "true" : "false") +
                                                            ", which is not computed for this architecture");
  }
  if (has_width) {
    TROUPE_ASSIGN_OR_RETURN(out.intermediate_size, integer(metadata, key("expert_feed_forward_length"), 1, kMaxWidth));
  } else if (family.experts == Experts::kAlways) {  // as llama.cpp has it: the chosen ones share the width of an MLP
    if (mlp_width < out.num_experts_per_token) {
      return metadata.corrupt(key("feed_forward_length"), "is less than " + key("expert_used_count"));
    }
    out.intermediate_size = mlp_width / out.num_experts_per_token;
  }
  if (!family.shared_expert) return {};
  const std::optional<std::uint64_t> otherwise =
      mlp_width != 0 ? std::optional<std::uint64_t>(mlp_width) : std::nullopt;
  TROUPE_ASSIGN_OR_RETURN(out.shared_intermediate_size,
                          integer(metadata, key("expert_shared_feed_forward_length"), 1, kMaxWidth, otherwise));
  return {};
}

Result<void> read_sizes(const GgufFile& file, const Keys& key, ModelConfig& out) {
  const GgufMetadata& metadata = file.metadata();
  TROUPE_ASSIGN_OR_RETURN(out.num_layers, integer(metadata, key("block_count"), 1, kMaxLayers));
  if (out.num_layers > file.tensors().size() / kLeastTensorsOfALayer) {
    return metadata.corrupt(key("block_count"), "is " + std::to_string(out.num_layers) + ", but the file has only " +
                                                    std::to_string(file.tensors().size()) + " tensors");
  }
  TROUPE_ASSIGN_OR_RETURN(out.hidden_size, integer(metadata, key("embedding_length"), 1, kMaxWidth));
  TROUPE_ASSIGN_OR_RETURN(out.max_position_embeddings, integer(metadata, key("context_length"), 1, kMaxPositions));
  TROUPE_ASSIGN_OR_RETURN(out.num_heads, integer(metadata, key("attention.head_count"), 1, kMaxHeads));
  TROUPE_ASSIGN_OR_RETURN(out.num_kv_heads,
                          integer(metadata, key("attention.head_count_kv"), 1, kMaxHeads, out.num_heads));
  if (out.num_heads % out.num_kv_heads != 0) {
    return metadata.corrupt(key("attention.head_count_kv"),
                            "is " + std::to_string(out.num_kv_heads) + ", which does not divide the " +
                                std::to_string(out.num_heads) + " of " + key("attention.head_count"));
  }
  const std::string head_key = key("attention.key_length");
  if (!metadata.contains(head_key) && out.hidden_size % out.num_heads != 0) {
    return metadata.corrupt(head_key, "is missing, and " + key("embedding_length") + " is not a multiple of " +
                                          key("attention.head_count"));
  }
  TROUPE_ASSIGN_OR_RETURN(out.head_dim, integer(metadata, head_key, 2, kMaxHeads, out.hidden_size / out.num_heads));
  if (out.head_dim < 2 || out.head_dim % 2 != 0) {
    return metadata.corrupt(
        head_key, "makes heads of " + std::to_string(out.head_dim) + "; rotary embedding needs an even number");
  }
  if (std::uint64_t{out.num_heads} * out.head_dim > kMaxWidth) {
    return metadata.corrupt(key("attention.head_count"),
                            "times the length of a head is more than " + std::to_string(kMaxWidth));
  }
  for (const std::string_view other : {"attention.value_length", "rope.dimension_count"}) {
    TROUPE_ASSIGN_OR_RETURN(const auto length, metadata.unsigned_integer(key(other), 0, kMaxWidth, out.head_dim));
    if (length != out.head_dim) {
      return metadata.refused(key(other), "is " + std::to_string(length) + "; supported: the length of a head, " +
                                              std::to_string(out.head_dim));
    }
  }
  TROUPE_ASSIGN_OR_RETURN(const double eps, metadata.number(key("attention.layer_norm_rms_epsilon")));
  if (!(eps > 0 && eps <= 1)) {
    return metadata.corrupt(key("attention.layer_norm_rms_epsilon"), "must be a positive number of at most 1");
  }
  out.rms_norm_eps = static_cast<float>(eps);
  TROUPE_ASSIGN_OR_RETURN(const std::uint32_t window,
                          integer(metadata, key("attention.sliding_window"), 0, kMaxPositions, 0));
  out.sliding_windows.assign(out.num_layers, window);
  return {};
}

Result<std::vector<float>> read_frequency_divisors(const GgufFile& file, const GgufTensor& tensor,
                                                   std::uint32_t head_dim) {
  const std::string place =
      file.place() + ": tensor '" + std::string(kRopeFrequencies) + "' at offset " + std::to_string(tensor.begin);
  if (tensor.type->name != "F32" || tensor.rank != 1 || tensor.sizes[0] != head_dim / 2) {
    return corrupt_data(place + ": must be " + std::to_string(head_dim / 2) + " numbers of type F32");
  }
  std::vector<float> divisors(tensor.sizes[0]);
  std::memcpy(divisors.data(), file.bytes(tensor).data(), divisors.size() * sizeof(float));
  for (const float divisor : divisors) {
    if (!(divisor > 0) || !std::isfinite(divisor)) return corrupt_data(place + ": must hold positive numbers");
  }
  return divisors;
}

Result<Rope> read_rope(const GgufFile& file, const Keys& key, const Family& family, std::uint32_t head_dim) {
  const GgufMetadata& metadata = file.metadata();
  Rope rope;
  rope.layout = family.layout;
  TROUPE_ASSIGN_OR_RETURN(rope.theta, metadata.number(key("rope.freq_base"), kDefaultRopeTheta));
  if (!(rope.theta > 0 && rope.theta <= kMaxRopeTheta)) {
    return metadata.corrupt(key("rope.freq_base"), "must be a positive number of at most 1e15");
  }
  // A factor without a type is linear, and 0 is none, as in llama.cpp.
  TROUPE_ASSIGN_OR_RETURN(const auto type, metadata.string(key("rope.scaling.type"), "linear"));
  if (type != "none" && type != "linear") {
    return metadata.refused(
        key("rope.scaling.type"),
        "is \"" + printable(type, 60) + "\"; supported: none, linear, and llama3's " + std::string(kRopeFrequencies));
  }
  const std::string factor_key =
      metadata.contains(key("rope.scaling.factor")) ? key("rope.scaling.factor") : key("rope.scale_linear");
  TROUPE_ASSIGN_OR_RETURN(const double factor, metadata.number(factor_key, 0));
  if (!(factor >= 0 && factor <= kMaxRopeFactor)) {
    return metadata.corrupt(factor_key, "must be a number from 0 to 1e6");
  }
  if (type == "linear" && factor != 0 && factor != 1) {
    rope.scaling = RopeScaling::kLinear;
    rope.factor = factor;
  }
  const GgufTensor* divisors = file.find(kRopeFrequencies);
  if (divisors != nullptr && family.frequency_divisors) {
    TROUPE_ASSIGN_OR_RETURN(rope.frequency_divisors, read_frequency_divisors(file, *divisors, head_dim));
  }
  return rope;
}

Result<void> read_special_tokens(const GgufMetadata& metadata, const Limits& limits, ModelConfig& out) {
  // Ids outside the vocabulary are published in some files; they can never be sampled and are left out.
  const auto id_of = [&](std::string_view key) -> Result<std::optional<std::uint32_t>> {
    TROUPE_ASSIGN_OR_RETURN(const auto id, metadata.unsigned_integer(key, 0, UINT32_MAX, UINT32_MAX));
    if (id >= out.vocab_size) return std::optional<std::uint32_t>();
    return std::optional(static_cast<std::uint32_t>(id));
  };
  TROUPE_ASSIGN_OR_RETURN(out.bos_token_id, id_of("tokenizer.ggml.bos_token_id"));
  std::set<std::uint32_t> endings;
  for (const std::string_view key :
       {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"}) {
    TROUPE_ASSIGN_OR_RETURN(const auto id, id_of(key));
    if (id) endings.insert(*id);
  }
  TROUPE_ASSIGN_OR_RETURN(const auto tokens,
                          metadata.strings("tokenizer.ggml.tokens", limits.tokenizer_entries, "tokenizer_entries"));
  for (std::uint32_t id = 0; id < tokens.size() && id < out.vocab_size; ++id) {
    if (std::find(std::begin(kEndings), std::end(kEndings), tokens[id]) != std::end(kEndings)) endings.insert(id);
  }
  out.eos_token_ids.assign(endings.begin(), endings.end());
  return {};
}

bool is_left_out(std::string_view name) {
  // Tables of angles that old converters wrote and llama.cpp skips as well.
  return name == kRopeFrequencies || name.ends_with(".attn_rot_embd.weight") || name == "rope_freqs.freqs";
}

// Whether the tensors that hold all experts of a layer hold as many as the metadata says: before a list is made of a
// claim alone.
Result<void> check_expert_counts(const GgufFile& file, const Keys& key, const ModelConfig& config) {
  if (config.num_experts == 0) return {};
  for (std::uint32_t layer = 0; layer < config.num_layers; ++layer) {
    for (const TensorRole role : {TensorRole::kExpertGate, TensorRole::kExpertUp, TensorRole::kExpertDown}) {
      const std::string name = gguf_name(role, layer, false);
      const GgufTensor* tensor = file.find(name);
      if (tensor == nullptr && file.find(gguf_expert_name(role, layer, config.num_experts - 1)) != nullptr) continue;
      if (tensor == nullptr) {
        return corrupt_data(file.place() + ": tensor '" + name + "' is missing; " + key("expert_count") +
                            " calls for it");
      }
      if (tensor->rank == 3 && tensor->sizes[0] == config.num_experts) continue;
      return corrupt_data(file.place() + ": tensor '" + name + "' at offset " + std::to_string(tensor->begin) +
                          ": has the shape " + to_string(tensor->shape()) + ", but " + key("expert_count") + " is " +
                          std::to_string(config.num_experts) + "; convert the model anew");
    }
  }
  return {};
}

// Which tensors there are and how they are stored.
Result<void> read_tensors(const GgufFile& file, const Family& family, ModelConfig& out) {
  std::set<std::string_view> used;
  for (const TensorSlice& slice : tensor_slices(out, {0, out.num_layers, out.num_layers, 0, 1})) {
    TROUPE_ASSIGN_OR_RETURN(const GgufPart part, find_gguf_part(file, slice));
    TROUPE_ASSIGN_OR_RETURN(const kernels::DType dtype, usable_type(part));
    used.insert(part.tensor->name);
    out.stored_types.emplace(slice.name, dtype);
  }
  for (const GgufTensor& tensor : file.tensors()) {
    if (used.contains(tensor.name)) continue;
    if (is_left_out(tensor.name) && (tensor.name != kRopeFrequencies || family.frequency_divisors)) continue;
    return unsupported(file.place() + ": tensor '" + printable(tensor.name) + "' at offset " +
                       std::to_string(tensor.begin) + ": is no part of the architecture \"" +
                       std::string(family.architecture) + "\" as it is computed here");
  }
  return {};
}

}  // namespace

Result<ModelConfig> gguf_config(const GgufFile& file, const Limits& limits) {
  const GgufMetadata& metadata = file.metadata();
  TROUPE_ASSIGN_OR_RETURN(const Family* family, family_of(metadata));
  const Keys key(family->architecture);

  ModelConfig out;
  out.model_type = family->architecture;
  TROUPE_RETURN_IF_ERROR(read_sizes(file, key, out));
  TROUPE_RETURN_IF_ERROR(read_mlp(metadata, key, *family, out));
  TROUPE_ASSIGN_OR_RETURN(out.rope, read_rope(file, key, *family, out.head_dim));
  const GgufTensor* table = file.find(gguf_name(TensorRole::kEmbedding, 0, false));
  if (table == nullptr) return corrupt_data(file.place() + ": tensor 'token_embd.weight' is missing");
  if (table->rank != 2 || table->sizes[0] > kMaxVocab) {
    return corrupt_data(file.place() + ": tensor 'token_embd.weight' at offset " + std::to_string(table->begin) +
                        ": must be a matrix of at most " + std::to_string(kMaxVocab) + " rows");
  }
  out.vocab_size = static_cast<std::uint32_t>(table->sizes[0]);
  const auto has = [&](TensorRole role) { return file.find(gguf_name(role, 0, false)) != nullptr; };
  out.qkv_bias = has(TensorRole::kQueryBias);
  out.output_bias = has(TensorRole::kOutputBias);
  out.mlp_bias = has(TensorRole::kGateBias);
  out.qk_norm = family->qk_norm;
  out.tie_word_embeddings = !has(TensorRole::kLmHead);
  TROUPE_RETURN_IF_ERROR(check_expert_counts(file, key, out));
  TROUPE_RETURN_IF_ERROR(read_tensors(file, *family, out));
  TROUPE_RETURN_IF_ERROR(read_special_tokens(metadata, limits, out));
  return out;
}

Result<ModelConfig> load_gguf_config(const std::filesystem::path& path, const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(const auto file, GgufFile::open(path, limits));
  return gguf_config(*file, limits);
}

}  // namespace troupe::model
