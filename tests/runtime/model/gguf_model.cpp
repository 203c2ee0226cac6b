#include "tests/runtime/model/gguf_model.h"

#include <boost/test/unit_test.hpp>
#include <random>
#include <utility>

#include "runtime/model/gguf_config.h"
#include "runtime/model/gguf_tensors.h"
#include "runtime/model/slice.h"
#include "tests/runtime/model/double_forward.h"
#include "tests/runtime/model/thread_cluster.h"

namespace troupe::model::testing {
namespace {

// Row i of the second half of a head comes after row i of the first: (heads, 2, half, cols) to (heads, half, 2, cols).
std::vector<float> interleaved(const std::vector<float>& values, std::size_t head_dim, std::size_t cols) {
  std::vector<float> out(values.size());
  const std::size_t half = head_dim / 2;
  for (std::size_t row = 0; row < values.size() / cols; ++row) {
    const std::size_t within = row % head_dim;
    const std::size_t to = row - within + (within % half) * 2 + within / half;
    std::copy_n(values.begin() + static_cast<std::ptrdiff_t>(row * cols), cols,
                out.begin() + static_cast<std::ptrdiff_t>(to * cols));
  }
  return out;
}

bool is_rotated(TensorRole role) {
  return role == TensorRole::kQuery || role == TensorRole::kKey || role == TensorRole::kQueryBias ||
         role == TensorRole::kKeyBias;
}

}  // namespace

GgufWriter gguf_metadata(const ModelConfig& config, const std::string& architecture) {
  const auto key = [&](const char* name) { return architecture + "." + name; };
  GgufWriter writer;
  writer.string("general.architecture", architecture).string("general.name", "tiny");
  writer.u32(key("block_count"), config.num_layers).u32(key("context_length"), config.max_position_embeddings);
  writer.u32(key("embedding_length"), config.hidden_size).u32(key("feed_forward_length"), config.intermediate_size);
  if (config.num_experts != 0) {
    writer.u32(key("expert_count"), config.num_experts).u32(key("expert_used_count"), config.num_experts_per_token);
    if (architecture != "llama") writer.u32(key("expert_feed_forward_length"), config.intermediate_size);
  }
  if (config.shared_intermediate_size != 0) {
    writer.u32(key("expert_shared_feed_forward_length"), config.shared_intermediate_size);
  }
  writer.u32(key("attention.head_count"), config.num_heads).u32(key("attention.head_count_kv"), config.num_kv_heads);
  writer.u32(key("attention.key_length"), config.head_dim).u32(key("attention.value_length"), config.head_dim);
  writer.f32(key("rope.freq_base"), static_cast<float>(config.rope.theta));
  writer.f32(key("attention.layer_norm_rms_epsilon"), config.rms_norm_eps);
  return writer;
}

GgufWriter gguf_model(const ModelConfig& config, const std::string& architecture, const TinyTensors& tensors,
                      bool experts_apart) {
  GgufWriter writer = gguf_metadata(config, architecture);
  std::vector<float> stack;  // of one role in one layer
  const bool permute = architecture == "llama" || architecture == "mistral3";
  for (const TensorSlice& slice : tensor_slices(config, {0, config.num_layers, config.num_layers, 0, 1})) {
    if (slice.role == TensorRole::kLmHead && config.tie_word_embeddings) continue;
    const TinyTensor& tensor = tensors.at(slice.name);
    if (is_of_an_expert(slice.role)) {
      if (experts_apart) {
        writer.f32_tensor(gguf_expert_name(slice.role, slice.layer, slice.expert), tensor.shape, tensor.values);
        continue;
      }
      stack.insert(stack.end(), tensor.values.begin(), tensor.values.end());
      if (slice.expert + 1 != config.num_experts) continue;
      writer.f32_tensor(gguf_name(slice.role, slice.layer, false), {config.num_experts, slice.rows, slice.cols},
                        std::exchange(stack, {}));
      continue;
    }
    if (slice.role == TensorRole::kSharedRouter) {
      writer.f32_tensor(gguf_name(slice.role, slice.layer, false), {1, slice.cols}, tensor.values);
      continue;
    }
    const bool rotated = permute && is_rotated(slice.role);
    writer.f32_tensor(
        gguf_name(slice.role, slice.layer, false), tensor.shape,
        rotated ? interleaved(tensor.values, config.head_dim, slice.is_vector ? 1 : slice.cols) : tensor.values);
  }
  return writer;
}

Result<ModelConfig> config_of(const GgufWriter& writer) {
  const std::string content = writer.file();
  const auto file = GgufFile::parse(std::as_bytes(std::span(content)), "m.gguf");
  BOOST_REQUIRE_MESSAGE(file.ok(), why(file));
  return gguf_config(**file);
}

void check_refused(const GgufWriter& writer, ErrorCode code, std::initializer_list<std::string_view> hints) {
  const auto config = config_of(writer);
  BOOST_REQUIRE(!config.ok());
  BOOST_TEST((config.error().code == code), config.error().message);
  BOOST_TEST(config.error().message.find("m.gguf") == 0u, config.error().message);
  for (const std::string_view hint : hints) {
    BOOST_TEST(config.error().message.find(hint) != std::string::npos, config.error().message);
  }
}

void check_forward(const GgufWriter& writer, const ModelConfig& original, const TinyTensors& tensors) {
  const TemporaryDirectory directory;
  write_file(directory / "model.gguf", writer.file());
  const auto config = load_config(directory / "model.gguf");
  BOOST_REQUIRE_MESSAGE(config.ok(), why(config));
  std::mt19937 random(9);
  std::vector<std::uint32_t> tokens(19);
  for (auto& token : tokens) token = random() % original.vocab_size;
  const auto expected = double_forward(original, tensors, tokens);
  for (const std::uint32_t world_size : {1u, 2u, 3u}) {
    for (const std::vector<std::uint32_t>& cuts : {std::vector<std::uint32_t>(), std::vector<std::uint32_t>{1}}) {
      BOOST_TEST_CONTEXT(world_size << " ranks, " << cuts.size() + 1 << " stages") {
        ThreadCluster::Options options;
        options.cuts = cuts;
        options.world_size = world_size;
        ThreadCluster cluster(directory / "model.gguf", *config, options);
        TestSequence sequence{tokens, 0, {}};
        const auto rows = cluster.prefill(sequence, 6);
        BOOST_REQUIRE(rows.size() == expected.size());
        for (std::size_t row = 0; row < rows.size(); ++row) {
          for (std::size_t col = 0; col < rows[row].size(); ++col) {
            BOOST_REQUIRE_SMALL(rows[row][col] - expected[row][col], 1e-4);
          }
        }
      }
    }
  }
}

}  // namespace troupe::model::testing
