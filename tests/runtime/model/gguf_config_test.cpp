#include "runtime/model/gguf_config.h"

#include <boost/test/unit_test.hpp>
#include <cmath>

#include "runtime/model/checkpoint.h"
#include "runtime/model/gguf_tensors.h"
#include "tests/runtime/model/fixtures.h"
#include "tests/runtime/model/gguf_model.h"

namespace troupe::model::testing {
namespace {

ModelConfig tiny_config(std::uint32_t layers = 2) {
  ModelConfig config;
  config.vocab_size = 41;
  config.hidden_size = 20;
  config.intermediate_size = 37;
  config.num_layers = layers;
  config.num_heads = 6;
  config.num_kv_heads = 3;
  config.head_dim = 10;
  config.max_position_embeddings = 128;
  config.sliding_windows.assign(layers, 0);
  return config;
}

// A file of the architecture, complete with random tensors.
GgufWriter tiny_file(const std::string& architecture, ModelConfig config) {
  config.qk_norm = architecture == "qwen3";
  return gguf_model(config, architecture, random_tensors(config, 3, kernels::DType::kF32));
}

BOOST_AUTO_TEST_SUITE(gguf_config)

BOOST_AUTO_TEST_CASE(sizes_come_from_the_metadata_and_the_rest_from_the_tensors) {
  GgufWriter writer = tiny_file("qwen2", tiny_config());
  const auto config = config_of(writer);
  BOOST_REQUIRE_MESSAGE(config.ok(), why(config));
  BOOST_TEST(config->model_type == "qwen2");
  BOOST_TEST(config->vocab_size == 41u);
  BOOST_TEST(config->hidden_size == 20u);
  BOOST_TEST(config->intermediate_size == 37u);
  BOOST_TEST(config->num_layers == 2u);
  BOOST_TEST(config->num_heads == 6u);
  BOOST_TEST(config->num_kv_heads == 3u);
  BOOST_TEST(config->head_dim == 10u);
  BOOST_TEST(config->max_position_embeddings == 128u);
  BOOST_TEST(config->rope.theta == 10000.0);
  BOOST_TEST(!config->qkv_bias);
  BOOST_TEST(!config->tie_word_embeddings);
  BOOST_TEST((config->sliding_windows == std::vector<std::uint32_t>{0, 0}));
  BOOST_TEST((config->stored_type("model.layers.1.mlp.down_proj.weight") == kernels::DType::kF32));
  BOOST_TEST(weight_bytes(*config, {0, 2, 2, 0, 1}) > 0u);
}

BOOST_AUTO_TEST_CASE(what_llama_cpp_leaves_out_has_its_defaults) {
  GgufWriter writer = tiny_file("llama", [] {
    ModelConfig config = tiny_config();
    config.num_heads = config.num_kv_heads = 2;
    return config;
  }());
  writer.without("llama.rope.freq_base").without("llama.attention.head_count_kv");
  writer.without("llama.attention.key_length").without("llama.attention.value_length");
  const auto config = config_of(writer);
  BOOST_REQUIRE_MESSAGE(config.ok(), why(config));
  BOOST_TEST(config->rope.theta == 10000.0);
  BOOST_TEST(config->num_kv_heads == 2u);
  BOOST_TEST(config->head_dim == 10u);
  BOOST_TEST((config->rope.layout == kernels::RopeLayout::kInterleaved));
}

BOOST_AUTO_TEST_CASE(every_architecture_computes_the_weights_that_were_converted) {
  for (const std::string architecture : {"llama", "mistral3", "qwen2", "qwen3"}) {
    BOOST_TEST_CONTEXT(architecture) {
      ModelConfig config = tiny_config();
      config.qk_norm = architecture == "qwen3";
      config.qkv_bias = architecture == "qwen2" || architecture == "llama";
      config.tie_word_embeddings = architecture != "qwen3";
      const TinyTensors tensors = random_tensors(config, 4, kernels::DType::kF32);
      check_forward(gguf_model(config, architecture, tensors), config, tensors);
    }
  }
}

BOOST_AUTO_TEST_CASE(windows_and_linear_scaling_are_computed) {
  ModelConfig config = tiny_config();
  config.sliding_windows = {5, 5};
  config.rope.scaling = RopeScaling::kLinear;
  config.rope.factor = 4;
  const TinyTensors tensors = random_tensors(config, 4, kernels::DType::kF32);
  GgufWriter writer = gguf_model(config, "llama", tensors);
  writer.u32("llama.attention.sliding_window", 5).string("llama.rope.scaling.type", "linear");
  writer.f32("llama.rope.scaling.factor", 4);
  check_forward(writer, config, tensors);
}

BOOST_AUTO_TEST_CASE(the_table_of_frequencies_stands_for_llama3_scaling) {
  ModelConfig config = tiny_config();
  const std::vector<float> plain = inverse_frequencies(config);
  config.rope.scaling = RopeScaling::kLlama3;
  config.rope.factor = 8;
  config.rope.original_max_position_embeddings = 40;
  const std::vector<float> scaled = inverse_frequencies(config);
  std::vector<float> divisors;
  for (std::size_t i = 0; i < plain.size(); ++i) divisors.push_back(plain[i] / scaled[i]);
  BOOST_TEST(divisors.back() == 8.0f);
  const TinyTensors tensors = random_tensors(config, 4, kernels::DType::kF32);
  GgufWriter writer = gguf_model(config, "llama", tensors);
  writer.f32_tensor("rope_freqs.weight", {5}, divisors);
  check_forward(writer, config, tensors);

  const auto with_divisors = [&](const std::vector<float>& values) {
    GgufWriter broken = tiny_file("llama", tiny_config());
    broken.f32_tensor("rope_freqs.weight", {values.size()}, values);
    return broken;
  };
  check_refused(with_divisors({1, 1, 1}), ErrorCode::kCorruptData, {"'rope_freqs.weight' at offset", "5 numbers"});
  check_refused(with_divisors({1, 0, 1, 1, 1}), ErrorCode::kCorruptData, {"'rope_freqs.weight'", "positive"});
}

BOOST_AUTO_TEST_CASE(tokens_that_end_an_answer_are_found) {
  GgufWriter writer = tiny_file("qwen2", tiny_config());
  writer.strings("tokenizer.ggml.tokens", {"a", "<|im_end|>", "b", "<|endoftext|>", "c"});
  writer.u32("tokenizer.ggml.bos_token_id", 3).u32("tokenizer.ggml.eos_token_id", 4);
  writer.u32("tokenizer.ggml.eot_token_id", 4294967295u);
  const auto config = config_of(writer);
  BOOST_REQUIRE_MESSAGE(config.ok(), why(config));
  BOOST_TEST((config->eos_token_ids == std::vector<std::uint32_t>{1, 3, 4}));
  BOOST_TEST(config->bos_token_id.value() == 3u);
}

BOOST_AUTO_TEST_CASE(what_is_not_computed_is_refused_by_name) {
  const ModelConfig tiny = tiny_config();
  const auto with = [&](auto&& change) {
    GgufWriter writer = tiny_file("llama", tiny);
    change(writer);
    return writer;
  };
  constexpr auto kUnsupported = ErrorCode::kUnsupported;
  check_refused(GgufWriter().string("general.architecture", "mamba"), kUnsupported,
                {"'general.architecture'", "mamba"});
  check_refused(with([](GgufWriter& w) { w.string("llama.rope.scaling.type", "yarn"); }), kUnsupported,
                {"'llama.rope.scaling.type'", "yarn"});
  check_refused(with([](GgufWriter& w) { w.u32("llama.rope.dimension_count", 4); }), kUnsupported,
                {"'llama.rope.dimension_count'"});
  check_refused(with([](GgufWriter& w) { w.f32("llama.logit_scale", 2); }), kUnsupported, {"'llama.logit_scale'"});
  check_refused(with([](GgufWriter& w) { w.boolean("llama.attention.causal", false); }), kUnsupported, {"causal"});
  check_refused(with([](GgufWriter& w) { w.u32("split.count", 3); }), kUnsupported, {"'split.count'", "join"});
  check_refused(with([](GgufWriter& w) {
                  w.f32_tensor("blk.1.attn_sinks.weight", {4}, {1, 2, 3, 4});
                }),
                kUnsupported, {"'blk.1.attn_sinks.weight' at offset"});
  check_refused(with([](GgufWriter& w) { w.f32_tensor("blk.1.attn_q.bias", {1}, {1}); }), kUnsupported,
                {"'blk.1.attn_q.bias'"});
  GgufWriter other_type = gguf_metadata(tiny, "llama");
  for (const TensorSlice& slice : tensor_slices(tiny, {0, 2, 2, 0, 1})) {
    const std::uint64_t elements = slice.rows * slice.cols;
    other_type.tensor(gguf_name(slice.role, slice.layer, false),
                      slice.is_vector ? std::vector{slice.cols} : std::vector{slice.rows, slice.cols}, 28,
                      std::string(elements * 8, '\0'));
  }
  check_refused(other_type, kUnsupported, {"'token_embd.weight' at offset", "F64", "supported: F32"});
}

BOOST_AUTO_TEST_CASE(what_is_missing_or_out_of_range_is_refused_by_name) {
  const auto with = [&](std::string_view key, std::uint32_t value) {
    GgufWriter writer = tiny_file("llama", tiny_config());
    writer.without(key).u32(key, value);
    return writer;
  };
  constexpr auto kCorrupt = ErrorCode::kCorruptData;
  check_refused(GgufWriter(), kCorrupt, {"'general.architecture' is missing"});
  for (const std::string key : {"block_count", "context_length", "embedding_length", "feed_forward_length",
                                "attention.head_count", "attention.layer_norm_rms_epsilon"}) {
    GgufWriter writer = tiny_file("llama", tiny_config());
    check_refused(writer.without("llama." + key), kCorrupt, {"'llama." + key + "' is missing"});
  }
  check_refused(with("llama.block_count", 4096), kCorrupt, {"'llama.block_count'", "only 21 tensors"});
  check_refused(with("llama.block_count", 4294967295u), kCorrupt, {"'llama.block_count'"});
  check_refused(with("llama.attention.head_count_kv", 4), kCorrupt, {"'llama.attention.head_count_kv'"});
  check_refused(with("llama.attention.head_count_kv", 0), kCorrupt, {"'llama.attention.head_count_kv'"});
  check_refused(with("llama.attention.head_count", 0), kCorrupt, {"'llama.attention.head_count'"});
  check_refused(with("llama.attention.key_length", 5), kCorrupt, {"'llama.attention.key_length'"});
  check_refused(with("llama.attention.layer_norm_rms_epsilon", 2), kCorrupt, {"rms_epsilon"});
  check_refused(with("llama.rope.freq_base", 0), kCorrupt, {"'llama.rope.freq_base'"});
  GgufWriter writer = gguf_metadata(tiny_config(), "llama");
  for (int i = 0; i < 20; ++i) writer.f32_tensor("t" + std::to_string(i), {1}, {1});
  check_refused(writer, kCorrupt, {"'token_embd.weight' is missing"});
  writer.f32_tensor("token_embd.weight", {1, 20}, std::vector<float>(20));
  check_refused(writer, kCorrupt, {"'blk.0.attn_norm.weight' is missing"});
}

BOOST_AUTO_TEST_CASE(a_tensor_of_another_shape_than_the_metadata_says_is_refused_at_load) {
  GgufWriter writer = tiny_file("llama", tiny_config());
  writer.without("llama.feed_forward_length").u32("llama.feed_forward_length", 36);
  const TemporaryDirectory directory;
  write_file(directory / "model.gguf", writer.file());
  const auto config = load_config(directory / "model.gguf");
  BOOST_REQUIRE_MESSAGE(config.ok(), why(config));
  auto checkpoint = Checkpoint::open(directory / "model.gguf");
  BOOST_REQUIRE_MESSAGE(checkpoint.ok(), why(checkpoint));
  const auto bytes = checkpoint->bytes_of(tensor_slices(*config, {0, 2, 2, 0, 1}));
  BOOST_REQUIRE(!bytes.ok());
  BOOST_TEST(bytes.error().message.find("'blk.0.ffn_gate.weight' at offset") != std::string::npos);
  BOOST_TEST(bytes.error().message.find("[37, 20]") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(vocabularies_without_a_model_are_refused, *boost::unit_test::precondition(&has_fixtures)) {
  const auto config = load_config(fixtures() / "gguf_vocab" / "ggml-vocab-llama-spm.gguf");
  BOOST_REQUIRE(!config.ok());
  BOOST_TEST(config.error().message.find("only 0 tensors") != std::string::npos, config.error().message);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model::testing
