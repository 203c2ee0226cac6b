#include <boost/test/unit_test.hpp>
#include <random>

#include "kernels/quant.h"
#include "runtime/model/checkpoint.h"
#include "runtime/model/gguf_config.h"
#include "tests/runtime/model/gguf_model.h"

// GGUF files of models with experts: what they compute in every split, and what is refused.
namespace troupe::model::testing {
namespace {

constexpr auto kCorrupt = ErrorCode::kCorruptData;

ModelConfig tiny_config(const std::string& architecture) {
  ModelConfig config;
  config.vocab_size = 41;
  config.hidden_size = 20;
  config.intermediate_size = 13;
  config.num_layers = 2;
  config.num_heads = 6;
  config.num_kv_heads = 3;
  config.head_dim = 10;
  config.max_position_embeddings = 128;
  config.sliding_windows = {0, 0};
  config.num_experts = 7;
  config.num_experts_per_token = 3;
  config.normalise_experts = architecture != "qwen2moe";
  config.qk_norm = architecture == "qwen3moe";
  config.qkv_bias = architecture == "qwen2moe";
  config.shared_intermediate_size = architecture == "qwen2moe" ? 11 : 0;
  return config;
}

TinyTensors tensors_of(const ModelConfig& config) { return random_tensors(config, 4, kernels::DType::kF32); }

GgufWriter tiny_file(const std::string& architecture) {
  const ModelConfig config = tiny_config(architecture);
  return gguf_model(config, architecture, tensors_of(config));
}

BOOST_AUTO_TEST_SUITE(gguf_moe)

BOOST_AUTO_TEST_CASE(experts_are_counted_and_measured_by_the_metadata) {
  const auto config = config_of(tiny_file("qwen2moe").without("qwen2moe.feed_forward_length"));
  BOOST_REQUIRE_MESSAGE(config.ok(), why(config));
  BOOST_TEST(config->num_experts == 7u);
  BOOST_TEST(config->num_experts_per_token == 3u);
  BOOST_TEST(config->intermediate_size == 13u);
  BOOST_TEST(config->shared_intermediate_size == 11u);
  BOOST_TEST(!config->normalise_experts);
  BOOST_TEST(config->qkv_bias);
  BOOST_TEST((config->stored_type("model.layers.1.mlp.experts.6.down_proj.weight") == kernels::DType::kF32));
  BOOST_TEST(config_of(tiny_file("qwen3moe"))->normalise_experts);
  BOOST_TEST(config_of(tiny_file("llama"))->normalise_experts);
  BOOST_TEST(config_of(tiny_file("llama"))->intermediate_size == 13u);
}

BOOST_AUTO_TEST_CASE(every_architecture_with_experts_computes_the_weights_that_were_converted) {
  for (const std::string architecture : {"llama", "qwen2moe", "qwen3moe"}) {
    BOOST_TEST_CONTEXT(architecture) {
      const ModelConfig config = tiny_config(architecture);
      check_forward(tiny_file(architecture), config, tensors_of(config));
    }
  }
}

BOOST_AUTO_TEST_CASE(the_router_of_the_shared_expert_may_be_a_vector_or_one_row) {
  const TensorSlice slice{TensorRole::kSharedRouter, 0, "gate", true, 1, 3, {0, 1}, {0, 3}};
  const auto read = [&](const std::vector<std::uint64_t>& shape) {
    const TemporaryDirectory directory;
    write_file(directory / "m.gguf",
               GgufWriter().f32_tensor("blk.0.ffn_gate_inp_shexp.weight", shape, {1, 2, 3}).file());
    auto checkpoint = Checkpoint::open(directory / "m.gguf");
    BOOST_REQUIRE_MESSAGE(checkpoint.ok(), why(checkpoint));
    return checkpoint->vector(slice);
  };
  for (const auto& shape : {std::vector<std::uint64_t>{3}, std::vector<std::uint64_t>{1, 3}}) {
    const auto values = read(shape);
    BOOST_REQUIRE_MESSAGE(values.ok(), why(values));
    BOOST_TEST(*values == (std::vector<float>{1, 2, 3}), boost::test_tools::per_element());
  }
  BOOST_TEST(read({3, 1}).error().message.find("has the shape [3, 1]") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(experts_that_are_tensors_of_their_own_are_the_same_model) {
  const ModelConfig config = tiny_config("llama");
  const TinyTensors tensors = tensors_of(config);
  check_forward(gguf_model(config, "llama", tensors, true), config, tensors);
}

BOOST_AUTO_TEST_CASE(a_part_of_an_expert_is_read_from_within_its_blocks) {
  struct Format {
    kernels::DType dtype;
    std::uint32_t type;  // as ggml numbers it
  };
  using kernels::DType;
  for (const auto& [dtype, type] : {Format{DType::kF32, 0}, Format{DType::kF16, 1}, Format{DType::kBF16, 30},
                                    Format{DType::kQ8_0, 8}, Format{DType::kQ4_0, 2}, Format{DType::kQ5_0, 6},
                                    Format{DType::kQ4_K, 12}, Format{DType::kQ5_K, 13}, Format{DType::kQ6_K, 14}}) {
    constexpr std::size_t kExperts = 3, kRows = 5, kCols = 512;
    const std::size_t row_bytes = kernels::row_bytes(dtype, kCols);
    std::string bytes(kExperts * kRows * row_bytes, '\0');
    std::mt19937 random(5);
    for (char& byte : bytes) byte = static_cast<char>(random());
    const TemporaryDirectory directory;
    write_file(directory / "m.gguf",
               GgufWriter().tensor("blk.0.ffn_down_exps.weight", {kExperts, kRows, kCols}, type, bytes).file());
    auto checkpoint = Checkpoint::open(directory / "m.gguf");
    BOOST_REQUIRE_MESSAGE(checkpoint.ok(), why(checkpoint));
    for (std::uint32_t expert = 0; expert < kExperts; ++expert) {
      const TensorSlice slice{TensorRole::kExpertDown, 0, "down", false, kRows, kCols, {1, 4}, {256, 512}, expert};
      const auto part = checkpoint->matrix(slice);
      BOOST_REQUIRE_MESSAGE(part.ok(), why(part));
      BOOST_TEST((part->view.dtype == dtype));
      for (std::size_t row = 0; row < 3; ++row) {
        const auto* got =
            static_cast<const char*>(part->view.data) + row * kernels::row_bytes(dtype, part->view.row_stride);
        const std::size_t at = (expert * kRows + 1 + row) * row_bytes + row_bytes / 2;
        BOOST_TEST(std::string_view(got, row_bytes / 2) == std::string_view(bytes).substr(at, row_bytes / 2));
      }
      BOOST_TEST(checkpoint->places_of(std::span(&slice, 1))->front().size() == 3 * row_bytes);
    }
    const auto beyond =
        checkpoint->matrix({TensorRole::kExpertDown, 0, "down", false, kRows, kCols, {0, 1}, {0, 512}, 3});
    BOOST_REQUIRE(!beyond.ok());
    BOOST_TEST(beyond.error().message.find("'blk.0.ffn_down_exps.weight' at offset") != std::string::npos);
    BOOST_TEST(beyond.error().message.find("without an expert 3") != std::string::npos, beyond.error().message);
  }
}

BOOST_AUTO_TEST_CASE(more_ranks_than_blocks_of_an_expert_are_refused) {
  ModelConfig config = tiny_config("qwen3moe");
  config.intermediate_size = 512;
  config.stored_types["model.layers.0.mlp.experts.0.down_proj.weight"] = kernels::DType::kQ4_K;
  BOOST_TEST(check_slice(config, {0, 2, 2, 0, 2}).ok());
  const auto checked = check_slice(config, {0, 2, 2, 0, 3});
  BOOST_REQUIRE(!checked.ok());
  BOOST_TEST(checked.error().message.find("down_proj") != std::string::npos, checked.error().message);
  BOOST_TEST(checked.error().message.find("at most 2 ranks") != std::string::npos, checked.error().message);
  ModelConfig narrow = tiny_config("qwen2moe");
  narrow.shared_intermediate_size = 2;
  BOOST_TEST(check_slice(narrow, {0, 2, 2, 0, 3}).error().param == "shared_expert_intermediate_size");
}

BOOST_AUTO_TEST_CASE(hostile_counts_are_refused_by_their_key) {
  const auto with = [](const std::string& architecture, const std::string& key, std::uint32_t value) {
    GgufWriter writer = tiny_file(architecture);
    return writer.without(architecture + "." + key).u32(architecture + "." + key, value);
  };
  for (const std::string architecture : {"qwen2moe", "qwen3moe"}) {
    check_refused(with(architecture, "expert_count", 0), kCorrupt, {"'" + architecture + ".expert_count'", "is 0"});
    check_refused(tiny_file(architecture).without(architecture + ".expert_count"), kCorrupt,
                  {"'" + architecture + ".expert_count' is missing"});
  }
  // Without experts, the file has tensors that nothing computes with, and lacks those of an MLP.
  check_refused(with("llama", "expert_count", 0), kCorrupt, {"'blk.0.ffn_gate.weight' is missing"});
  check_refused(with("llama", "expert_count", 4294967295u), kCorrupt, {"'llama.expert_count'", "from 0 to"});
  check_refused(with("llama", "expert_count", 8), kCorrupt,
                {"'blk.0.ffn_gate_exps.weight' at offset", "[7, 13, 20]", "llama.expert_count is 8"});
  check_refused(with("llama", "expert_used_count", 8), kCorrupt, {"'llama.expert_used_count'", "from 1 to 7"});
  check_refused(with("llama", "expert_used_count", 0), kCorrupt, {"'llama.expert_used_count'", "from 1 to 7"});
  check_refused(tiny_file("llama").without("llama.expert_used_count"), kCorrupt,
                {"'llama.expert_used_count' is missing"});
  check_refused(with("qwen3moe", "expert_feed_forward_length", 0), kCorrupt, {"'qwen3moe.expert_feed_forward_length'"});
  check_refused(with("qwen2moe", "expert_shared_feed_forward_length", 0), kCorrupt,
                {"'qwen2moe.expert_shared_feed_forward_length'"});
  GgufWriter narrow = with("qwen3moe", "feed_forward_length", 2);
  check_refused(narrow.without("qwen3moe.expert_feed_forward_length"), kCorrupt,
                {"'qwen3moe.feed_forward_length'", "expert_used_count"});
  check_refused(tiny_file("llama").without("llama.feed_forward_length"), kCorrupt,
                {"'llama.feed_forward_length' is missing"});
}

BOOST_AUTO_TEST_CASE(other_ways_to_choose_experts_are_refused_by_their_key) {
  constexpr auto kUnsupported = ErrorCode::kUnsupported;
  check_refused(tiny_file("qwen3moe").boolean("qwen3moe.expert_weights_norm", false), kUnsupported,
                {"'qwen3moe.expert_weights_norm'", "is false"});
  check_refused(tiny_file("qwen3moe").u32("qwen3moe.expert_gating_func", 2), kUnsupported, {"expert_gating_func'"});
  check_refused(tiny_file("qwen3moe").f32("qwen3moe.expert_weights_scale", 2.5f), kUnsupported,
                {"expert_weights_scale'"});
  check_refused(tiny_file("qwen3moe").u32("qwen3moe.leading_dense_block_count", 1), kUnsupported,
                {"leading_dense_block_count'"});
  check_refused(tiny_file("llama").f32_tensor("blk.1.exp_probs_b.bias", {7}, std::vector<float>(7)), kUnsupported,
                {"'blk.1.exp_probs_b.bias' at offset"});
  ModelConfig dense = tiny_config("qwen3moe");
  dense.num_experts = 0;
  check_refused(gguf_model(dense, "qwen3", tensors_of(dense)).u32("qwen3.expert_count", 4), kUnsupported,
                {"'qwen3.expert_count'", "is 4", "without experts"});
}

// By exchanging bytes of a sound file.
BOOST_AUTO_TEST_CASE(missing_and_misshapen_tensors_are_refused_by_their_name) {
  const ModelConfig config = tiny_config("qwen3moe");
  const TinyTensors tensors = tensors_of(config);
  const std::string whole = gguf_model(config, "qwen3moe", tensors).file();
  const auto check = [&](std::string_view from, std::string_view to, std::string_view hint) {
    std::string content = whole;
    content.replace(content.find(from), from.size(), to);
    const auto file = GgufFile::parse(std::as_bytes(std::span(content)), "m.gguf");
    BOOST_REQUIRE_MESSAGE(file.ok(), why(file));
    const auto read = gguf_config(**file);
    BOOST_REQUIRE(!read.ok());
    BOOST_TEST((read.error().code == kCorrupt));
    BOOST_TEST(read.error().message.find(hint) != std::string::npos, read.error().message);
  };
  check("blk.1.ffn_gate_inp.weight", "blk.1.ffn_gate_imp.weight", "'blk.1.ffn_gate_inp.weight' is missing");
  check("blk.1.ffn_up_exps.weight", "blk.1.ffn_ap_exps.weight", "'blk.1.ffn_up_exps.weight' is missing");
  // Innermost first: columns, rows, experts.
  const auto sizes = [](std::uint64_t cols, std::uint64_t rows, std::uint64_t experts) {
    return "blk.0.ffn_down_exps.weight" + bytes_of<std::uint32_t>(3) + bytes_of(cols) + bytes_of(rows) +
           bytes_of(experts);
  };
  check(sizes(13, 20, 7), sizes(13, 7, 20), "'blk.0.ffn_down_exps.weight' at offset");
  check(sizes(13, 20, 7), sizes(13, 7, 20), "[20, 7, 13], but qwen3moe.expert_count is 7");
}

BOOST_AUTO_TEST_CASE(experts_of_another_shape_than_the_metadata_says_are_refused_at_load) {
  for (const auto& [key, tensor] : {std::pair{"qwen3moe.expert_feed_forward_length", "'blk.0.ffn_gate_exps.weight' at"},
                                    std::pair{"qwen2moe.expert_shared_feed_forward_length", "'blk.0.ffn_gate_shexp"}}) {
    const std::string architecture = std::string(key).substr(0, 8);
    GgufWriter writer = tiny_file(architecture);
    const TemporaryDirectory directory;
    write_file(directory / "model.gguf", writer.without(key).u32(key, 12).file());
    const auto config = load_config(directory / "model.gguf");
    BOOST_REQUIRE_MESSAGE(config.ok(), why(config));
    auto checkpoint = Checkpoint::open(directory / "model.gguf");
    BOOST_REQUIRE_MESSAGE(checkpoint.ok(), why(checkpoint));
    const auto bytes = checkpoint->bytes_of(tensor_slices(*config, {0, 2, 2, 0, 1}));
    BOOST_REQUIRE(!bytes.ok());
    BOOST_TEST(bytes.error().message.find(tensor) != std::string::npos, bytes.error().message);
    BOOST_TEST(bytes.error().message.find("calls for [12, 20]") != std::string::npos, bytes.error().message);
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model::testing
