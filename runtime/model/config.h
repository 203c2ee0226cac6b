#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/kernels.h"
#include "kernels/tensor.h"
#include "runtime/base/limits.h"
#include "runtime/base/result.h"

namespace troupe::model {

enum class RopeScaling : std::uint8_t {
  kNone,
  kLinear,  // positions divided by `factor` (Chen et al. 2023)
  kLlama3,  // long wavelengths divided by `factor`, short ones kept, a ramp between (Llama 3.1)
};

struct Rope {
  double theta = 10000.0;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1.0;
  double low_freq_factor = 1.0;                        // kLlama3
  double high_freq_factor = 4.0;                       // kLlama3
  std::uint32_t original_max_position_embeddings = 0;  // kLlama3
  std::vector<float> frequency_divisors;               // (head_dim / 2) or empty: what GGUF files have for kLlama3
  kernels::RopeLayout layout = kernels::RopeLayout::kHalves;

  bool operator==(const Rope&) const = default;
};

// How a model is sampled where a request does not say: what its makers wrote in generation_config.json.
struct SamplingDefaults {
  std::optional<double> temperature;  // 0..2; 0 where do_sample is false
  std::optional<double> top_p;        // (0, 1]
  std::optional<std::uint32_t> top_k;
  std::optional<double> min_p;               // 0..1
  std::optional<double> repetition_penalty;  // 0.01..100

  bool operator==(const SamplingDefaults&) const = default;
};

// A decoder as data: everything the forward pass, the weight slices and the planner need to know, with no
// family left to ask for. Plain value; validated when it comes from load_config, parse_config or gguf_config.
struct ModelConfig {
  std::string model_type;  // "llama", "mixtral", "qwen2", "qwen3moe": for people, not for decisions
  std::uint32_t vocab_size = 0;
  std::uint32_t hidden_size = 0;
  std::uint32_t intermediate_size = 0;  // of the MLP, or of each expert
  std::uint32_t num_layers = 0;
  std::uint32_t num_heads = 0;
  std::uint32_t num_kv_heads = 0;
  std::uint32_t head_dim = 0;  // num_heads * head_dim need not be hidden_size
  std::uint32_t max_position_embeddings = 0;
  float rms_norm_eps = 1e-6f;
  Rope rope;
  bool qkv_bias = false;                       // of q_proj, k_proj, v_proj
  bool output_bias = false;                    // of o_proj
  bool mlp_bias = false;                       // of gate_proj, up_proj, down_proj
  bool qk_norm = false;                        // RMS norm of every query and key head before RoPE
  bool tie_word_embeddings = false;            // lm_head is the embedding table
  std::vector<std::uint32_t> sliding_windows;  // (num_layers): positions a query sees, itself included; 0 = all

  std::uint32_t num_experts = 0;               // in the place of the MLP; 0 = the MLP
  std::uint32_t num_experts_per_token = 0;     // those with the largest router logits
  bool normalise_experts = false;              // the softmax is over the chosen experts, not over all
  std::uint32_t shared_intermediate_size = 0;  // of one more expert that every token takes (Qwen2-MoE); 0 = none
  std::vector<bool> dense_layers;              // (num_layers): those that have an MLP all the same; empty = none
  std::uint32_t dense_intermediate_size = 0;   // of their MLP

  kernels::DType dtype = kernels::DType::kF32;  // what the config says the weights are stored as: for estimates
  // The tensors that are stored as something else, by their name in tensor_slices (slice.h).
  std::map<std::string, kernels::DType, std::less<>> stored_types;
  std::optional<std::uint32_t> bos_token_id;
  std::vector<std::uint32_t> eos_token_ids;  // any of them ends an answer; may be empty
  SamplingDefaults sampling;

  kernels::DType stored_type(std::string_view tensor) const {
    const auto found = stored_types.find(tensor);
    return found == stored_types.end() ? dtype : found->second;
  }

  bool has_experts(std::uint32_t layer) const {
    return num_experts != 0 && (dense_layers.empty() || !dense_layers[layer]);
  }

  bool operator==(const ModelConfig&) const = default;
};

// Upper ends of what a config may say: far beyond any model, and small enough that no product of three of them
// overflows 64 bits.
inline constexpr std::uint32_t kMaxVocab = 1 << 26;
inline constexpr std::uint32_t kMaxWidth = 1 << 22;
inline constexpr std::uint32_t kMaxLayers = 4096;
inline constexpr std::uint32_t kMaxHeads = 1 << 16;
inline constexpr std::uint32_t kMaxExperts = 1 << 12;       // of a layer
inline constexpr std::uint32_t kMaxModelExperts = 1 << 16;  // of all layers: bounds the lists of their tensors
inline constexpr std::uint32_t kMaxPositions = 1u << 31;
inline constexpr double kMaxRopeTheta = 1e15;
inline constexpr double kMaxRopeFactor = 1e6;

// The config of a model: a Hugging Face directory or a GGUF file (gguf_config.h). Of a directory it reads config.json,
// in the spelling of transformers 4 or 5, and generation_config.json if there is one (its token ids win, as in
// transformers).
// Errors name the file and the key, and what is supported: kNotFound without config.json, kCorruptData for what is
// not JSON or out of range, kUnsupported for architectures and options that this code does not compute exactly.
Result<ModelConfig> load_config(const std::filesystem::path& model, const Limits& limits = {});

// The same from text; `place` stands for the file in errors. `generation_config` may be empty.
Result<ModelConfig> parse_config(std::string_view config, const std::string& place,
                                 std::string_view generation_config = {}, const std::string& generation_place = {},
                                 const Limits& limits = {});

// The rotary frequencies of the config: (head_dim / 2), position-independent.
std::vector<float> inverse_frequencies(const ModelConfig& config);

}  // namespace troupe::model
