#include "runtime/model/config.h"

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <numbers>
#include <string>

#include "tests/runtime/model/fixtures.h"
#include "tests/runtime/model/tiny_model.h"

namespace troupe::model::testing {
namespace {

// A config.json with `extra` members; a member given twice takes the later value.
std::string config_text(const std::string& model_type, const std::string& extra = "") {
  return R"({"model_type":")" + model_type +
         R"(","vocab_size":320,"hidden_size":64,"intermediate_size":130,"num_hidden_layers":4,"num_attention_heads":4,
            "num_key_value_heads":2,"max_position_embeddings":256,"rms_norm_eps":1e-5)" +
         extra + "}";
}

ModelConfig parsed(const std::string& text, const std::string& generation = "") {
  auto config = parse_config(text, "config.json", generation, "generation_config.json");
  BOOST_REQUIRE_MESSAGE(config.ok(), why(config));
  return std::move(config).value();
}

// The error names the file, the key and `hint`.
void check_refused(const std::string& text, const std::string& key, const std::string& hint) {
  BOOST_TEST_CONTEXT(text) {
    const auto config = parse_config(text, "some/config.json");
    BOOST_REQUIRE(!config.ok());
    const std::string& message = config.error().message;
    BOOST_TEST(message.find("some/config.json") != std::string::npos, message);
    BOOST_TEST(message.find(key) != std::string::npos, message);
    BOOST_TEST(message.find(hint) != std::string::npos, message);
    BOOST_TEST(config.error().param == key, config.error().param);
  }
}

const std::vector<std::uint32_t> kNoWindows{0, 0, 0, 0};

BOOST_AUTO_TEST_SUITE(config)

BOOST_AUTO_TEST_CASE(a_llama_has_what_its_config_says) {
  const ModelConfig config = parsed(config_text("llama", R"(,"attention_bias":true,"mlp_bias":true)"));
  BOOST_TEST(config.vocab_size == 320u);
  BOOST_TEST(config.intermediate_size == 130u);
  BOOST_TEST(config.num_kv_heads == 2u);
  BOOST_TEST(config.head_dim == 16u);
  BOOST_TEST(config.rms_norm_eps == 1e-5f);
  BOOST_TEST(config.rope.theta == 10000.0);
  BOOST_TEST(config.qkv_bias);
  BOOST_TEST(config.output_bias);
  BOOST_TEST(config.mlp_bias);
  BOOST_TEST(!config.qk_norm);
  BOOST_TEST(!config.tie_word_embeddings);
  BOOST_TEST((config.sliding_windows == kNoWindows));
  BOOST_TEST((config.dtype == kernels::DType::kF32));
}

BOOST_AUTO_TEST_CASE(head_dim_is_taken_as_said) {
  const ModelConfig config = parsed(config_text("qwen3", R"(,"head_dim":24)"));
  BOOST_TEST(config.head_dim == 24u);
  BOOST_TEST(config.qk_norm);
  BOOST_TEST(!config.qkv_bias);
}

BOOST_AUTO_TEST_CASE(absent_keys_take_the_family_defaults) {
  BOOST_TEST(parsed(config_text("qwen3")).head_dim == 128u);
  BOOST_TEST(parsed(config_text("qwen3", R"(,"head_dim":null)")).head_dim == 16u);
  BOOST_TEST(parsed(config_text("llama", R"(,"num_key_value_heads":null)")).num_kv_heads == 4u);
}

BOOST_AUTO_TEST_CASE(qwen2_always_has_qkv_bias_and_no_other) {
  const ModelConfig config = parsed(config_text("qwen2", R"(,"attention_bias":false)"));
  BOOST_TEST(config.qkv_bias);
  BOOST_TEST(!config.output_bias);
  BOOST_TEST(!config.mlp_bias);
}

BOOST_AUTO_TEST_CASE(mistral_slides_in_every_layer_unless_told_null) {
  using Windows = std::vector<std::uint32_t>;
  BOOST_TEST((parsed(config_text("mistral", R"(,"sliding_window":8)")).sliding_windows == Windows{8, 8, 8, 8}));
  BOOST_TEST((parsed(config_text("mistral", R"(,"sliding_window":null)")).sliding_windows == kNoWindows));
  BOOST_TEST((parsed(config_text("mistral")).sliding_windows == Windows{4096, 4096, 4096, 4096}));
}

BOOST_AUTO_TEST_CASE(qwen_layers_slide_by_max_window_layers_or_layer_types) {
  using Windows = std::vector<std::uint32_t>;
  const std::string on = R"(,"use_sliding_window":true,"sliding_window":8,"max_window_layers":3)";
  BOOST_TEST((parsed(config_text("qwen2", on)).sliding_windows == Windows{0, 0, 0, 8}));
  BOOST_TEST(
      (parsed(config_text("qwen2", R"(,"sliding_window":8,"max_window_layers":3)")).sliding_windows == kNoWindows));
  const std::string types =
      R"(,"layer_types":["full_attention","sliding_attention","full_attention","full_attention"])";
  BOOST_TEST((parsed(config_text("qwen3", on + types)).sliding_windows == Windows{0, 8, 0, 0}));
  check_refused(config_text("qwen3", types), "layer_types[1]", "without a sliding_window");
  check_refused(config_text("qwen3", R"(,"layer_types":["full_attention"])"), "layer_types", "4 layers");
  check_refused(config_text("qwen3", R"(,"layer_types":["full_attention","linear_attention",1,2])"), "layer_types[1]",
                "supported: full_attention, sliding_attention");
}

BOOST_AUTO_TEST_CASE(both_spellings_of_rope_mean_the_same) {
  const std::string scaling =
      R"("factor":8.0,"low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":32)";
  const ModelConfig old_spelling =
      parsed(config_text("llama", R"(,"rope_theta":5e5,"rope_scaling":{"rope_type":"llama3",)" + scaling + "}"));
  const ModelConfig new_spelling =
      parsed(config_text("llama", R"(,"rope_parameters":{"rope_theta":500000,"rope_type":"llama3",)" + scaling + "}"));
  for (const ModelConfig& config : {old_spelling, new_spelling}) {
    BOOST_TEST(config.rope.theta == 5e5);
    BOOST_TEST((config.rope.scaling == RopeScaling::kLlama3));
    BOOST_TEST(config.rope.factor == 8.0);
    BOOST_TEST(config.rope.original_max_position_embeddings == 32u);
  }
  BOOST_TEST((parsed(config_text("llama", R"(,"rope_scaling":null)")).rope.scaling == RopeScaling::kNone));
  BOOST_TEST((parsed(config_text("llama", R"(,"rope_scaling":{"type":"linear","factor":2})")).rope.scaling ==
              RopeScaling::kLinear));
}

BOOST_AUTO_TEST_CASE(frequencies_follow_the_scaling) {
  ModelConfig config;
  config.head_dim = 8;
  config.rope.theta = 10000;
  BOOST_TEST(inverse_frequencies(config)[1] == 0.1f, boost::test_tools::tolerance(1e-6f));
  config.rope.scaling = RopeScaling::kLinear;
  config.rope.factor = 4;
  BOOST_TEST(inverse_frequencies(config)[1] == 0.025f, boost::test_tools::tolerance(1e-6f));
  // Llama 3: with 32 original positions, frequencies 1, 0.1, 0.01, 0.001 turn 5.09, 0.509, 0.0509 and 0.00509 times.
  config.rope = {10000.0, RopeScaling::kLlama3, 8.0, 0.2, 4.0, 32};
  const auto scaled = inverse_frequencies(config);
  const double keep = (32 * 0.1 / (2 * std::numbers::pi) - 0.2) / (4.0 - 0.2);
  BOOST_TEST(scaled[0] == 1.0f);
  BOOST_TEST(scaled[1] == float(0.1 * (keep + (1 - keep) / 8)), boost::test_tools::tolerance(1e-6f));
  BOOST_TEST(scaled[2] == 0.01f / 8, boost::test_tools::tolerance(1e-6f));
}

BOOST_AUTO_TEST_CASE(experts_take_the_place_of_the_mlp) {
  const ModelConfig mixtral = parsed(config_text("mixtral", R"(,"num_local_experts":4)"));
  BOOST_TEST(mixtral.num_experts == 4u);
  BOOST_TEST(mixtral.num_experts_per_token == 2u);
  BOOST_TEST(mixtral.normalise_experts);
  BOOST_TEST(mixtral.dense_layers.empty());
  BOOST_TEST(mixtral.has_experts(0));
  const std::string experts = R"(,"num_experts":4,"num_experts_per_tok":2,"moe_intermediate_size":48)";
  const ModelConfig qwen2 = parsed(config_text("qwen2_moe", experts + R"(,"decoder_sparse_step":2)"));
  BOOST_TEST(qwen2.intermediate_size == 48u);
  BOOST_TEST(qwen2.shared_intermediate_size == 5632u);
  BOOST_TEST(qwen2.dense_intermediate_size == parsed(config_text("llama")).intermediate_size);
  BOOST_TEST(!qwen2.has_experts(0));
  BOOST_TEST(qwen2.has_experts(1));
  const ModelConfig qwen3 = parsed(config_text("qwen3_moe", experts + R"(,"mlp_only_layers":[1])"));
  BOOST_TEST(qwen3.has_experts(0));
  BOOST_TEST(!qwen3.has_experts(1));
  BOOST_TEST(qwen3.shared_intermediate_size == 0u);
  BOOST_TEST(!qwen3.normalise_experts);
  check_refused(config_text("mixtral", R"(,"num_local_experts":0)"), "num_local_experts", "from 1 to");
  check_refused(config_text("mixtral", R"(,"num_experts_per_tok":9)"), "num_experts_per_tok", "from 1 to 8");
  check_refused(config_text("qwen3_moe", experts + R"(,"mlp_only_layers":[99])"), "mlp_only_layers", "from 0 to");
  check_refused(config_text("qwen3_moe", experts + R"(,"decoder_sparse_step":4096)"), "decoder_sparse_step",
                "no layer with experts");
  check_refused(config_text("qwen3_moe", experts + R"(,"use_sliding_window":true)"), "use_sliding_window", "false");
  check_refused(config_text("qwen2_moe", experts + R"(,"qkv_bias":false)"), "qkv_bias", "true");
  check_refused(config_text("qwen3_moe", R"(,"num_experts":4096,"num_hidden_layers":4096)"), "num_experts",
                "65536 experts in all");
}

BOOST_AUTO_TEST_CASE(token_ids_of_generation_config_win) {
  const std::string text = config_text("llama", R"(,"bos_token_id":1,"eos_token_id":2)");
  using Ids = std::vector<std::uint32_t>;
  BOOST_TEST((parsed(text).eos_token_ids == Ids{2}));
  BOOST_TEST(parsed(text).bos_token_id.value() == 1u);
  const ModelConfig both = parsed(text, R"({"eos_token_id":[5,7,100000],"bos_token_id":null})");
  BOOST_TEST((both.eos_token_ids == Ids{5, 7}));  // 100000 is not in the vocabulary
  BOOST_TEST(both.bos_token_id.value() == 1u);
  BOOST_TEST(parsed(config_text("llama")).eos_token_ids.empty());
  BOOST_TEST(!parsed(config_text("llama", R"(,"bos_token_id":-1)")).bos_token_id.has_value());
  check_refused(config_text("llama", R"(,"eos_token_id":"</s>")"), "eos_token_id", "token id");
}

BOOST_AUTO_TEST_CASE(generation_config_says_how_a_model_is_sampled) {
  const std::string text = config_text("llama");
  BOOST_TEST((parsed(text).sampling == SamplingDefaults()));
  BOOST_TEST((parsed(text, R"({"eos_token_id":1})").sampling == SamplingDefaults()));
  const SamplingDefaults sampled =
      parsed(text, R"({"do_sample":true,"temperature":0.7,"top_p":0.8,"top_k":20,"min_p":0,"repetition_penalty":1.05})")
          .sampling;
  BOOST_TEST((sampled == SamplingDefaults{0.7, 0.8, 20, 0.0, 1.05}));
  BOOST_TEST((parsed(text, R"({"do_sample":false,"temperature":0.7})").sampling == SamplingDefaults{.temperature = 0}));
  for (const char* wrong : {R"({"temperature":-1})", R"({"temperature":"hot"})", R"({"top_p":0})", R"({"top_k":-2})",
                            R"({"do_sample":1})", R"({"repetition_penalty":0})", R"({"min_p":2})"}) {
    BOOST_TEST(!parse_config(text, "config.json", wrong, "generation_config.json").ok(), wrong);
  }
}

BOOST_AUTO_TEST_CASE(dtype_has_two_names) {
  BOOST_TEST((parsed(config_text("llama", R"(,"torch_dtype":"bfloat16")")).dtype == kernels::DType::kBF16));
  BOOST_TEST((parsed(config_text("llama", R"(,"dtype":"float16")")).dtype == kernels::DType::kF16));
  check_refused(config_text("llama", R"(,"dtype":"float8_e4m3fn")"), "dtype", "supported: float32");
}

BOOST_AUTO_TEST_CASE(what_is_not_computed_is_refused_with_what_is) {
  check_refused(config_text("gemma2"), "model_type",
                "supported: llama, mistral, qwen2, qwen3, mixtral, qwen2_moe, qwen3_moe");
  check_refused("{}", "model_type", "missing");
  check_refused(config_text("llama", R"(,"architectures":["LlamaForSequenceClassification"])"), "architectures",
                "supported: LlamaForCausalLM");
  check_refused(config_text("llama", R"(,"hidden_act":"gelu")"), "hidden_act", "supported: silu");
  check_refused(config_text("llama", R"(,"quantization_config":{"quant_method":"awq"})"), "quantization_config",
                "supported: weights in float32");
  check_refused(config_text("llama", R"(,"rope_scaling":{"rope_type":"yarn","factor":4})"), "rope_scaling.rope_type",
                "supported: default, linear, llama3");
  check_refused(config_text("llama", R"(,"rope_parameters":{"full_attention":{"rope_theta":1}})"), "rope_parameters",
                "one set for all layers");
  check_refused(config_text("llama", R"(,"partial_rotary_factor":0.5)"), "partial_rotary_factor", "supported: 1");
  check_refused(config_text("mistral", R"(,"attention_bias":true)"), "attention_bias", "does not have");
  check_refused(config_text("qwen3", R"(,"mlp_bias":true)"), "mlp_bias", "does not have");
}

BOOST_AUTO_TEST_CASE(numbers_out_of_range_are_refused) {
  for (const std::string value : {"0", "-1", "1e3", "2.5", "\"64\"", "true", "[64]", "99999999999", "1e999"}) {
    const auto config = parse_config(config_text("llama", ",\"hidden_size\":" + value), "config.json");
    BOOST_TEST(!config.ok(), value);
  }
  check_refused(config_text("llama", R"(,"num_hidden_layers":100000)"), "num_hidden_layers", "from 1 to 4096");
  check_refused(config_text("llama", R"(,"num_key_value_heads":3)"), "num_key_value_heads", "must divide");
  check_refused(config_text("llama", R"(,"num_attention_heads":6)"), "head_dim", "hidden_size (64)");
  check_refused(config_text("llama", R"(,"head_dim":15)"), "head_dim", "even");
  check_refused(config_text("llama", R"(,"rms_norm_eps":-1)"), "rms_norm_eps", "positive");
  check_refused(config_text("llama", R"(,"rope_theta":0)"), "rope_theta", "positive");
  check_refused(config_text("llama", R"(,"vocab_size":null)"), "vocab_size", "missing");
  check_refused(config_text("mistral", R"(,"sliding_window":0)"), "sliding_window", "from 1");
  check_refused(config_text("llama", R"(,"rope_scaling":{"rope_type":"llama3","factor":8})"),
                "rope_scaling.low_freq_factor", "missing");
}

BOOST_AUTO_TEST_CASE(text_that_is_not_a_json_object_is_refused_with_its_offset) {
  const std::string whole = config_text("llama");
  for (std::size_t length = 0; length < whole.size(); ++length) {
    const auto config = parse_config(whole.substr(0, length), "config.json");
    BOOST_REQUIRE(!config.ok());
    BOOST_TEST((config.error().code == ErrorCode::kCorruptData));
  }
  for (const std::string& text : {std::string("[]"), std::string("1"), whole + "x", std::string(100000, '[')}) {
    BOOST_TEST(!parse_config(text, "config.json").ok());
  }
  const auto config = parse_config("{\"model_type\": nope}", "config.json");
  BOOST_TEST(config.error().message.find("byte 15") != std::string::npos, config.error().message);
}

BOOST_AUTO_TEST_CASE(a_directory_without_config_is_not_found) {
  const TemporaryDirectory directory;
  BOOST_TEST((load_config(directory.path()).error().code == ErrorCode::kNotFound));
  write_file(directory / "config.json", config_text("llama"));
  BOOST_TEST(load_config(directory.path()).ok());
  write_file(directory / "generation_config.json", "{");
  BOOST_TEST(load_config(directory.path()).error().message.find("generation_config.json") != std::string::npos);
  write_file(directory / "config.json", std::string((1 << 20) + 1, ' '));
  BOOST_TEST((load_config(directory.path()).error().code == ErrorCode::kResourceExhausted));
}

BOOST_AUTO_TEST_CASE(transformers_4_and_5_spell_the_same_models, *boost::unit_test::precondition(&has_fixtures)) {
  for (const std::string model :
       {"llama", "llama3-rope", "mistral", "qwen2", "qwen2-sliding", "qwen3", "mixtral", "qwen2_moe", "qwen3_moe"}) {
    BOOST_TEST_CONTEXT(model) {
      const TemporaryDirectory directory;
      std::filesystem::copy_file(fixtures() / "golden" / model / "config.v5.json", directory / "config.json");
      const auto old_spelling = load_config(fixtures() / "golden" / model);
      const auto new_spelling = load_config(directory.path());
      BOOST_REQUIRE_MESSAGE(old_spelling.ok(), why(old_spelling));
      BOOST_REQUIRE_MESSAGE(new_spelling.ok(), why(new_spelling));
      BOOST_TEST((*old_spelling == *new_spelling));
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model::testing
