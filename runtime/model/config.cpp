#include "runtime/model/config.h"

#include <algorithm>
#include <boost/json/value.hpp>
#include <cmath>
#include <numbers>
#include <system_error>

#include "runtime/base/log.h"
#include "runtime/model/config_section.h"
#include "runtime/model/gguf_config.h"
#include "runtime/model/quant_format.h"
#include "runtime/model/slice.h"
#include "runtime/model/text_file.h"

namespace troupe::model {
namespace {

namespace json = boost::json;

enum class Bias : std::uint8_t { kNone, kAlways, kByKey };
enum class Window : std::uint8_t {
  kNone,
  kEveryLayer,  // sliding_window
  kByLayer,     // use_sliding_window, with layer_types or max_window_layers
};
enum class Experts : std::uint8_t {
  kNone,
  kMixtral,  // of intermediate_size, in every layer; the chosen ones' weights add up to 1
  kQwen,     // of moe_intermediate_size, in the layers that decoder_sparse_step and mlp_only_layers leave them
};

// What transformers' modelling code of a family fixes, and the defaults of its configuration class.
struct Family {
  std::string_view model_type;
  std::string_view architecture;
  Bias attention_bias;  // q_proj, k_proj, v_proj; kByKey: attention_bias
  Bias output_bias;     // o_proj; kByKey: attention_bias
  Bias mlp_bias;        // kByKey: mlp_bias
  bool qk_norm;
  Window window;
  std::uint32_t default_num_kv_heads;    // 0 = num_attention_heads
  std::uint32_t default_head_dim;        // 0 = hidden_size / num_attention_heads
  std::uint32_t default_sliding_window;  // when the key is absent; null means none
  Experts experts = Experts::kNone;
  std::uint32_t default_num_experts = 0;
  std::uint32_t default_experts_per_token = 0;
  std::uint32_t default_expert_size = 0;  // Experts::kQwen
  std::uint32_t default_shared_size = 0;  // of the shared expert; 0 = the family has none
  double default_rope_theta = 10000;
  double default_rms_norm_eps = 1e-6;
};

constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", Bias::kByKey, Bias::kByKey, Bias::kByKey, false, Window::kNone, 0, 0, 0},
    {"mistral", "MistralForCausalLM", Bias::kNone, Bias::kNone, Bias::kNone, false, Window::kEveryLayer, 8, 0, 4096},
    {"qwen2", "Qwen2ForCausalLM", Bias::kAlways, Bias::kNone, Bias::kNone, false, Window::kByLayer, 32, 0, 4096},
    {"qwen3", "Qwen3ForCausalLM", Bias::kByKey, Bias::kByKey, Bias::kNone, true, Window::kByLayer, 32, 128, 4096},
    {"mixtral", "MixtralForCausalLM", Bias::kNone, Bias::kNone, Bias::kNone, false, Window::kEveryLayer, 8, 0, 0,
     Experts::kMixtral, 8, 2, 0, 0, 1e6, 1e-5},
    {"qwen2_moe", "Qwen2MoeForCausalLM", Bias::kAlways, Bias::kNone, Bias::kNone, false, Window::kByLayer, 16, 0, 4096,
     Experts::kQwen, 60, 4, 1408, 5632},
    {"qwen3_moe", "Qwen3MoeForCausalLM", Bias::kByKey, Bias::kByKey, Bias::kNone, true, Window::kNone, 4, 0, 0,
     Experts::kQwen, 128, 8, 768, 0},
};
constexpr std::uint32_t kDefaultMaxWindowLayers = 28;  // of the configuration classes of Qwen

// config.json is a few kilobytes, and the document made of it takes several times its text: a tighter bound than
// json_file_bytes.
constexpr std::uint64_t kMaxConfigBytes = 1 << 20;

Result<const Family*> family_of(const ConfigSection& config) {
  TROUPE_ASSIGN_OR_RETURN(const std::string model_type, config.string("model_type"));
  std::string supported;
  for (const Family& family : kFamilies) {
    if (family.model_type != model_type) {
      supported += (supported.empty() ? "" : ", ") + std::string(family.model_type);
      continue;
    }
    const json::value* architectures = config.find("architectures");
    if (architectures == nullptr) return &family;
    if (architectures->is_array()) {
      for (const json::value& name : architectures->get_array()) {
        if (name.is_string() && name.get_string() == family.architecture) return &family;
      }
    }
    return config.refused("architectures",
                          "is " + shown(*architectures) + "; supported: " + std::string(family.architecture));
  }
  return config.refused("model_type", "is \"" + printable(model_type, 60) + "\"; supported: " + supported);
}

Result<void> refuse_what_is_not_computed(const ConfigSection& config) {
  TROUPE_ASSIGN_OR_RETURN(const std::string act, config.string("hidden_act", "silu"));
  if (act != "silu" && act != "swish") {
    return config.refused("hidden_act", "is \"" + printable(act, 60) + "\"; supported: silu");
  }
  TROUPE_ASSIGN_OR_RETURN(const double rotary, config.positive("partial_rotary_factor", 1.0, 1.0));
  if (rotary != 1.0) return config.refused("partial_rotary_factor", "is not 1; supported: 1");
  return {};
}

// The layers that have an MLP where the others have experts: those that mlp_only_layers lists, and all but every
// decoder_sparse_step-th. Empty when there are none.
Result<std::vector<bool>> read_dense_layers(const ConfigSection& config, std::uint32_t num_layers) {
  TROUPE_ASSIGN_OR_RETURN(const std::uint32_t step, config.integer("decoder_sparse_step", 1, kMaxLayers, 1));
  std::vector<bool> dense(num_layers);
  for (std::uint32_t layer = 0; layer < num_layers; ++layer) dense[layer] = (layer + 1) % step != 0;
  if (const json::value* listed = config.find("mlp_only_layers")) {
    const auto is_layer = [&](const json::value& layer) {
      return layer.is_int64() && layer.get_int64() >= 0 && layer.get_int64() < num_layers;
    };
    if (!listed->is_array() || !std::all_of(listed->get_array().begin(), listed->get_array().end(), is_layer)) {
      return config.bad("mlp_only_layers", "is " + shown(*listed) + "; it must be a list of layers from 0 to " +
                                               std::to_string(num_layers - 1));
    }
    for (const json::value& layer : listed->get_array()) dense[static_cast<std::size_t>(layer.get_int64())] = true;
  }
  const auto count = std::count(dense.begin(), dense.end(), true);
  if (count == 0) return std::vector<bool>();
  if (count == num_layers) {
    return config.refused("decoder_sparse_step",
                          "and mlp_only_layers leave no layer with experts; a model without "
                          "them has another model_type");
  }
  return dense;
}

// REQUIRES: the sizes have been read; intermediate_size becomes that of an expert.
Result<void> read_experts(const ConfigSection& config, const Family& family, ModelConfig& out) {
  if (family.experts == Experts::kNone) return {};
  const std::string_view count_key = config.find("num_experts") != nullptr ? "num_experts" : "num_local_experts";
  TROUPE_ASSIGN_OR_RETURN(out.num_experts, config.integer(count_key, 1, kMaxExperts, family.default_num_experts));
  if (out.num_experts > kMaxModelExperts / out.num_layers) {
    return config.refused(count_key, "is " + std::to_string(out.num_experts) + " for each of " +
                                         std::to_string(out.num_layers) + " layers; at most " +
                                         std::to_string(kMaxModelExperts) + " experts in all are supported");
  }
  TROUPE_ASSIGN_OR_RETURN(out.num_experts_per_token,
                          config.integer("num_experts_per_tok", 1, out.num_experts, family.default_experts_per_token));
  if (family.experts == Experts::kMixtral) {
    out.normalise_experts = true;
    return {};
  }
  TROUPE_ASSIGN_OR_RETURN(out.normalise_experts, config.boolean("norm_topk_prob", false));
  TROUPE_ASSIGN_OR_RETURN(out.dense_layers, read_dense_layers(config, out.num_layers));
  if (!out.dense_layers.empty()) out.dense_intermediate_size = out.intermediate_size;
  TROUPE_ASSIGN_OR_RETURN(out.intermediate_size,
                          config.integer("moe_intermediate_size", 1, kMaxWidth, family.default_expert_size));
  if (family.default_shared_size == 0) return {};
  TROUPE_ASSIGN_OR_RETURN(out.shared_intermediate_size,
                          config.integer("shared_expert_intermediate_size", 1, kMaxWidth, family.default_shared_size));
  return {};
}

Result<bool> bias(const ConfigSection& config, std::string_view key, Bias rule) {
  TROUPE_ASSIGN_OR_RETURN(const bool asked, config.boolean(key, false));
  if (rule == Bias::kAlways) {
    TROUPE_ASSIGN_OR_RETURN(const bool qwen, config.boolean("qkv_bias", true));
    if (!qwen) return config.refused("qkv_bias", "is false; supported for this model_type: true");
    return true;
  }
  if (asked && rule == Bias::kNone) return config.refused(key, "is true, which this model_type does not have");
  return asked;
}

Result<void> read_sizes(const ConfigSection& config, const Family& family, ModelConfig& out) {
  TROUPE_ASSIGN_OR_RETURN(out.vocab_size, config.integer("vocab_size", 1, kMaxVocab));
  TROUPE_ASSIGN_OR_RETURN(out.hidden_size, config.integer("hidden_size", 1, kMaxWidth));
  TROUPE_ASSIGN_OR_RETURN(out.intermediate_size, config.integer("intermediate_size", 1, kMaxWidth));
  TROUPE_ASSIGN_OR_RETURN(out.num_layers, config.integer("num_hidden_layers", 1, kMaxLayers));
  TROUPE_ASSIGN_OR_RETURN(out.num_heads, config.integer("num_attention_heads", 1, kMaxHeads));
  const bool kv_heads_absent = !config.contains("num_key_value_heads");
  const std::uint32_t default_kv_heads =
      kv_heads_absent && family.default_num_kv_heads != 0 ? family.default_num_kv_heads : out.num_heads;
  TROUPE_ASSIGN_OR_RETURN(out.num_kv_heads, config.integer("num_key_value_heads", 1, kMaxHeads, default_kv_heads));
  if (out.num_heads % out.num_kv_heads != 0) {
    return config.bad("num_key_value_heads", "(" + std::to_string(out.num_kv_heads) +
                                                 ") must divide num_attention_heads (" + std::to_string(out.num_heads) +
                                                 ")");
  }
  const bool head_dim_absent = !config.contains("head_dim");
  if (config.find("head_dim") == nullptr && !(head_dim_absent && family.default_head_dim != 0)) {
    if (out.hidden_size % out.num_heads != 0) {
      return config.bad("head_dim", "is missing and hidden_size (" + std::to_string(out.hidden_size) +
                                        ") is not a multiple of num_attention_heads (" + std::to_string(out.num_heads) +
                                        ")");
    }
    out.head_dim = out.hidden_size / out.num_heads;
  } else {
    TROUPE_ASSIGN_OR_RETURN(out.head_dim, config.integer("head_dim", 2, kMaxHeads, family.default_head_dim));
  }
  if (out.head_dim % 2 != 0) {
    return config.bad("head_dim", "is " + std::to_string(out.head_dim) + "; rotary embedding needs an even number");
  }
  if (std::uint64_t{out.num_heads} * out.head_dim > kMaxWidth) {
    return config.bad("num_attention_heads", "times head_dim is more than " + std::to_string(kMaxWidth));
  }
  TROUPE_ASSIGN_OR_RETURN(out.max_position_embeddings, config.integer("max_position_embeddings", 1, kMaxPositions));
  TROUPE_ASSIGN_OR_RETURN(const double eps, config.positive("rms_norm_eps", 1.0, family.default_rms_norm_eps));
  out.rms_norm_eps = static_cast<float>(eps);
  return {};
}

// transformers 4 writes rope_theta and rope_scaling, transformers 5 one object rope_parameters.
Result<Rope> read_rope(const ConfigSection& config, const Family& family) {
  Rope rope;
  TROUPE_ASSIGN_OR_RETURN(rope.theta, config.positive("rope_theta", kMaxRopeTheta, family.default_rope_theta));
  const std::string key = config.find("rope_parameters") != nullptr ? "rope_parameters" : "rope_scaling";
  const json::value* value = config.find(key);
  if (value == nullptr) return rope;
  if (!value->is_object()) return config.bad(key, "is " + shown(*value) + "; it must be an object");
  for (const auto& member : value->get_object()) {
    if (member.value().is_object()) {
      return config.refused(key, "sets parameters by kind of layer; supported: one set for all layers");
    }
  }
  const ConfigSection scaling(value->get_object(), config.place(), key + ".");
  TROUPE_ASSIGN_OR_RETURN(rope.theta, scaling.positive("rope_theta", kMaxRopeTheta, rope.theta));
  TROUPE_ASSIGN_OR_RETURN(const double rotary, scaling.positive("partial_rotary_factor", 1.0, 1.0));
  if (rotary != 1.0) return scaling.refused("partial_rotary_factor", "is not 1; supported: 1");
  const std::string type_key = scaling.find("rope_type") == nullptr ? "type" : "rope_type";
  TROUPE_ASSIGN_OR_RETURN(const std::string type, scaling.string(type_key, "default"));
  if (type == "default") return rope;
  if (type != "linear" && type != "llama3") {
    return scaling.refused(type_key, "is \"" + printable(type, 60) + "\"; supported: default, linear, llama3");
  }
  rope.scaling = type == "linear" ? RopeScaling::kLinear : RopeScaling::kLlama3;
  TROUPE_ASSIGN_OR_RETURN(rope.factor, scaling.positive("factor", kMaxRopeFactor));
  if (type == "llama3") {
    TROUPE_ASSIGN_OR_RETURN(rope.low_freq_factor, scaling.positive("low_freq_factor", 1e6));
    TROUPE_ASSIGN_OR_RETURN(rope.high_freq_factor, scaling.positive("high_freq_factor", 1e6));
    TROUPE_ASSIGN_OR_RETURN(rope.original_max_position_embeddings,
                            scaling.integer("original_max_position_embeddings", 1, kMaxPositions));
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      return scaling.bad("high_freq_factor", "must be greater than low_freq_factor");
    }
  }
  return rope;
}

Result<std::vector<std::uint32_t>> read_windows(const ConfigSection& config, const Family& family,
                                                std::uint32_t num_layers) {
  std::uint32_t window = 0;
  TROUPE_ASSIGN_OR_RETURN(const bool use, config.boolean("use_sliding_window", false));
  if (use && family.window == Window::kNone) {
    return config.refused("use_sliding_window", "is true; supported for this model_type: false");
  }
  if (family.window == Window::kEveryLayer || (family.window == Window::kByLayer && use)) {
    const std::uint32_t otherwise = config.contains("sliding_window") ? 0 : family.default_sliding_window;
    TROUPE_ASSIGN_OR_RETURN(window, config.integer("sliding_window", 1, kMaxPositions, otherwise));
  }
  std::vector<std::uint32_t> windows(num_layers, window);
  if (family.window == Window::kByLayer) {
    TROUPE_ASSIGN_OR_RETURN(const std::uint32_t first_sliding,
                            config.integer("max_window_layers", 0, kMaxPositions, kDefaultMaxWindowLayers));
    for (std::uint32_t layer = 0; layer < num_layers && layer < first_sliding; ++layer) windows[layer] = 0;
  }
  const json::value* types = config.find("layer_types");
  if (types == nullptr) return windows;
  if (!types->is_array() || types->get_array().size() != num_layers) {
    return config.bad("layer_types",
                      "must be a list with one entry for each of the " + std::to_string(num_layers) + " layers");
  }
  for (std::uint32_t layer = 0; layer < num_layers; ++layer) {
    const json::value& type = types->get_array()[layer];
    const std::string entry = "layer_types[" + std::to_string(layer) + "]";
    const bool sliding = type.is_string() && type.get_string() == "sliding_attention";
    if (!sliding && !(type.is_string() && type.get_string() == "full_attention")) {
      return config.refused(entry, "is " + shown(type) + "; supported: full_attention, sliding_attention");
    }
    if (sliding && window == 0) return config.refused(entry, "is sliding_attention without a sliding_window");
    if (!sliding && windows[layer] != 0 && family.window == Window::kEveryLayer) {
      return config.refused(entry, "is full_attention; in this model_type every layer slides");
    }
    windows[layer] = sliding ? window : 0;
  }
  return windows;
}

Result<kernels::DType> read_dtype(const ConfigSection& config) {
  const std::string key = config.find("dtype") != nullptr ? "dtype" : "torch_dtype";
  TROUPE_ASSIGN_OR_RETURN(const std::string name, config.string(key, "float32"));
  if (name == "float32") return kernels::DType::kF32;
  if (name == "float16") return kernels::DType::kF16;
  if (name == "bfloat16") return kernels::DType::kBF16;
  return config.refused(key, "is \"" + printable(name, 60) + "\"; supported: float32, float16, bfloat16");
}

// A token id or a list of them. Ids outside the vocabulary are published in some models; they can never be sampled
// and are left out.
Result<std::vector<std::uint32_t>> read_token_ids(const ConfigSection& config, std::string_view key,
                                                  std::uint32_t vocab_size, std::uint64_t max_ids) {
  std::vector<std::uint32_t> ids;
  const json::value* value = config.find(key);
  if (value == nullptr) return ids;
  const json::array one = value->is_array() ? json::array() : json::array({*value});
  const json::array& list = value->is_array() ? value->get_array() : one;
  if (list.size() > max_ids) {
    return config.bad(key, "lists more than " + std::to_string(max_ids) + " ids (limit stop_tokens)");
  }
  for (const json::value& id : list) {
    if (!id.is_int64()) return config.bad(key, "is " + shown(*value) + "; it must be a token id or a list of them");
    if (id.get_int64() >= 0 && id.get_int64() < vocab_size) ids.push_back(static_cast<std::uint32_t>(id.get_int64()));
  }
  return ids;
}

// The entry that troupe quantize writes; quantization_config of other tools is refused.
Result<void> read_quantization(const ConfigSection& config, ModelConfig& out) {
  const json::value* value = config.find("quantization_config");
  if (value == nullptr) return {};
  const json::object none;
  const ConfigSection section(value->is_object() ? value->get_object() : none, config.place(), "quantization_config.");
  TROUPE_ASSIGN_OR_RETURN(const std::string method, section.string("quant_method", ""));
  if (method != kQuantMethod) {
    return config.refused("quantization_config", "is set (" + shown(*value) +
                                                     "); supported: weights in float32, float16 or bfloat16, and " +
                                                     "what troupe quantize makes of them");
  }
  TROUPE_ASSIGN_OR_RETURN(const std::string name, section.string("format"));
  const auto format = parse_quant_format(name);
  if (!format) return section.refused("format", "is \"" + printable(name, 60) + "\"; supported: q8, q4");
  for (const TensorSlice& tensor : tensor_slices(out, {0, out.num_layers, out.num_layers, 0, 1})) {
    out.stored_types.emplace(tensor.name,
                             tensor.is_vector ? kernels::DType::kF32 : quantised_type(*format, tensor.role));
  }
  return {};
}

Result<void> read_special_tokens(const ConfigSection& section, const Limits& limits, ModelConfig& out) {
  TROUPE_ASSIGN_OR_RETURN(auto bos, read_token_ids(section, "bos_token_id", out.vocab_size, 1));
  if (!bos.empty()) out.bos_token_id = bos.front();
  TROUPE_ASSIGN_OR_RETURN(auto eos, read_token_ids(section, "eos_token_id", out.vocab_size, limits.stop_tokens));
  if (!eos.empty()) out.eos_token_ids = std::move(eos);
  return {};
}

Result<SamplingDefaults> read_sampling_defaults(const ConfigSection& generation) {
  SamplingDefaults out;
  TROUPE_ASSIGN_OR_RETURN(const bool samples, generation.boolean("do_sample", true));
  if (!samples) {
    out.temperature = 0;
    return out;
  }
  TROUPE_ASSIGN_OR_RETURN(out.temperature, generation.number("temperature", 0, 2));
  TROUPE_ASSIGN_OR_RETURN(out.top_p, generation.number("top_p", 1e-6, 1));
  TROUPE_ASSIGN_OR_RETURN(out.min_p, generation.number("min_p", 0, 1));
  TROUPE_ASSIGN_OR_RETURN(out.repetition_penalty, generation.number("repetition_penalty", 0.01, 100));
  if (generation.find("top_k") != nullptr) {
    TROUPE_ASSIGN_OR_RETURN(out.top_k, generation.integer("top_k", 0, kMaxVocab));
  }
  return out;
}

}  // namespace

Result<ModelConfig> parse_config(std::string_view config, const std::string& place, std::string_view generation_config,
                                 const std::string& generation_place, const Limits& limits) {
  TROUPE_ASSIGN_OR_RETURN(const json::value document, parse_config_json(config, place, limits));
  const ConfigSection section(document.get_object(), place);
  TROUPE_ASSIGN_OR_RETURN(const Family* family, family_of(section));
  TROUPE_RETURN_IF_ERROR(refuse_what_is_not_computed(section));

  ModelConfig out;
  out.model_type = family->model_type;
  TROUPE_RETURN_IF_ERROR(read_sizes(section, *family, out));
  TROUPE_RETURN_IF_ERROR(read_experts(section, *family, out));
  TROUPE_ASSIGN_OR_RETURN(out.rope, read_rope(section, *family));
  TROUPE_ASSIGN_OR_RETURN(out.qkv_bias, bias(section, "attention_bias", family->attention_bias));
  out.output_bias = family->output_bias == Bias::kByKey && out.qkv_bias;
  TROUPE_ASSIGN_OR_RETURN(out.mlp_bias, bias(section, "mlp_bias", family->mlp_bias));
  out.qk_norm = family->qk_norm;
  TROUPE_ASSIGN_OR_RETURN(out.tie_word_embeddings, section.boolean("tie_word_embeddings", false));
  TROUPE_ASSIGN_OR_RETURN(out.sliding_windows, read_windows(section, *family, out.num_layers));
  TROUPE_ASSIGN_OR_RETURN(out.dtype, read_dtype(section));
  TROUPE_RETURN_IF_ERROR(read_quantization(section, out));
  TROUPE_RETURN_IF_ERROR(read_special_tokens(section, limits, out));
  if (!generation_config.empty()) {
    TROUPE_ASSIGN_OR_RETURN(const json::value generation,
                            parse_config_json(generation_config, generation_place, limits));
    const ConfigSection rules(generation.get_object(), generation_place);
    TROUPE_RETURN_IF_ERROR(read_special_tokens(rules, limits, out));
    TROUPE_ASSIGN_OR_RETURN(out.sampling, read_sampling_defaults(rules));
  }
  return out;
}

Result<ModelConfig> load_config(const std::filesystem::path& model, const Limits& limits) {
  std::error_code ignored;
  if (std::filesystem::is_regular_file(model, ignored)) return load_gguf_config(model, limits);
  const std::filesystem::path path = model / "config.json";
  const std::filesystem::path generation_path = model / "generation_config.json";
  const std::uint64_t max_bytes = std::min(kMaxConfigBytes, limits.json_file_bytes);
  TROUPE_ASSIGN_OR_RETURN(const std::string config, read_text_file(path, max_bytes, "json_file_bytes"));
  std::string generation;
  if (std::filesystem::exists(generation_path, ignored)) {
    TROUPE_ASSIGN_OR_RETURN(generation, read_text_file(generation_path, max_bytes, "json_file_bytes"));
  }
  return parse_config(config, path.string(), generation, generation_path.string(), limits);
}

std::vector<float> inverse_frequencies(const ModelConfig& config) {
  const Rope& rope = config.rope;
  std::vector<float> frequencies(config.head_dim / 2);
  for (std::size_t i = 0; i < frequencies.size(); ++i) {
    double frequency = std::pow(rope.theta, -2.0 * static_cast<double>(i) / config.head_dim);
    if (rope.scaling == RopeScaling::kLinear) frequency /= rope.factor;
    if (rope.scaling == RopeScaling::kLlama3) {
      const double turns = rope.original_max_position_embeddings * frequency / (2 * std::numbers::pi);
      if (turns < rope.low_freq_factor) {
        frequency /= rope.factor;
      } else if (turns <= rope.high_freq_factor) {
        const double keep = (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor);
        frequency = (1 - keep) * frequency / rope.factor + keep * frequency;
      }
    }
    if (!rope.frequency_divisors.empty()) frequency /= rope.frequency_divisors[i];
    frequencies[i] = static_cast<float>(frequency);
  }
  return frequencies;
}

}  // namespace troupe::model
