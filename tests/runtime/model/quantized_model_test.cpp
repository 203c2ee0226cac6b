#include <boost/test/unit_test.hpp>
#include <cmath>
#include <fstream>
#include <iterator>
#include <random>

#include "kernels/cpu/half.h"
#include "kernels/quant.h"
#include "runtime/model/checkpoint.h"
#include "runtime/model/quantize.h"
#include "tests/runtime/model/gguf_writer.h"
#include "tests/runtime/model/tiny_model.h"

// Weights in quantised formats: how they are cut, read and made.
namespace troupe::model::testing {
namespace {

using kernels::DType;

ModelConfig wide_config() {
  ModelConfig config;
  config.vocab_size = 100;
  config.hidden_size = 256;
  config.intermediate_size = 1280;
  config.num_layers = 1;
  config.num_heads = 16;
  config.num_kv_heads = 8;
  config.head_dim = 32;
  config.sliding_windows = {0};
  return config;
}

ModelConfig stored_as(ModelConfig config, DType dtype) {
  for (const TensorSlice& tensor : tensor_slices(config, {0, 1, 1, 0, 1})) {
    config.stored_types[tensor.name] = tensor.is_vector ? DType::kF32 : dtype;
  }
  return config;
}

std::vector<float> row_of(const kernels::WeightView& view, std::size_t row) {
  std::vector<float> values(view.cols);
  kernels::dequantize_row(view, row, values.data());
  return values;
}

// Blocks with sane scales: random bytes with the F16 numbers of each block overwritten.
std::string random_blocks(DType dtype, std::size_t blocks) {
  std::mt19937 random(5);
  std::string bytes(blocks * kernels::block_bytes(dtype), '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  for (std::size_t block = 0; block < blocks; ++block) {
    char* at = bytes.data() + block * kernels::block_bytes(dtype);
    const std::size_t scale = dtype == DType::kQ6_K ? sizeof(kernels::BlockQ6_K) - 2 : 0;
    at[scale] = 0;
    at[scale + 1] = 0x2c;
    if (dtype == DType::kQ4_K || dtype == DType::kQ5_K) at[3] = 0x28;
  }
  return bytes;
}

BOOST_AUTO_TEST_SUITE(quantized_model)

BOOST_AUTO_TEST_CASE(ranks_are_cut_between_whole_blocks) {
  for (const DType dtype : {DType::kQ8_0, DType::kQ4_K, DType::kInt8, DType::kInt4}) {
    const ModelConfig config = stored_as(wide_config(), dtype);
    const std::uint64_t rows = kernels::is_panel_format(dtype) ? kernels::kPanelOuts : 1;
    std::uint32_t most = 0;
    for (std::uint32_t world = 1; world <= 8; ++world) {
      if (!check_slice(config, {0, 1, 1, 0, world}).ok()) continue;
      most = world;
      Range expected{0, 0};
      for (std::uint32_t rank = 0; rank < world; ++rank) {
        const RankShape shape = rank_shape(config, {0, 1, 1, rank, world});
        BOOST_TEST(shape.intermediate.first == expected.last);
        expected = shape.intermediate;
        BOOST_TEST(shape.intermediate.size() > 0u);
        for (const TensorSlice& tensor : tensor_slices(config, {0, 1, 1, rank, world})) {
          if (tensor.is_vector) continue;
          BOOST_TEST(tensor.col_range.first % kernels::block_elements(dtype) == 0u);
          BOOST_TEST(
              (tensor.col_range.last % kernels::block_elements(dtype) == 0 || tensor.col_range.last == tensor.cols));
          BOOST_TEST(tensor.row_range.first % rows == 0u);
        }
      }
      BOOST_TEST(expected.last == config.intermediate_size);
    }
    BOOST_TEST(most == (dtype == DType::kQ4_K ? 2u : kernels::is_panel_format(dtype) ? 7u : 8u));
  }
}

BOOST_AUTO_TEST_CASE(more_ranks_than_blocks_are_refused_with_the_remedy) {
  const auto checked = check_slice(stored_as(wide_config(), DType::kQ4_K), {0, 1, 1, 0, 4});
  BOOST_REQUIRE(!checked.ok());
  BOOST_TEST((checked.error().code == ErrorCode::kInvalidArgument));
  BOOST_TEST(checked.error().message.find("o_proj") != std::string::npos, checked.error().message);
  BOOST_TEST(checked.error().message.find("at most 2 ranks") != std::string::npos, checked.error().message);
}

BOOST_AUTO_TEST_CASE(parts_of_gguf_blocks_stand_for_the_same_numbers) {
  struct Format {
    DType dtype;
    std::uint32_t type;  // as ggml numbers it
  };
  for (const auto& [dtype, type] : {Format{DType::kQ8_0, 8}, Format{DType::kQ4_0, 2}, Format{DType::kQ5_0, 6},
                                    Format{DType::kQ4_K, 12}, Format{DType::kQ5_K, 13}, Format{DType::kQ6_K, 14}}) {
    constexpr std::size_t kRows = 3, kCols = 1024;
    const std::string blocks = random_blocks(dtype, kRows * kCols / kernels::block_elements(dtype));
    std::vector<float> whole(kRows * kCols);
    kernels::dequantize(dtype, blocks.data(), whole.size(), whole.data());
    const TemporaryDirectory directory;
    write_file(directory / "m.gguf", GgufWriter().tensor("blk.0.ffn_down.weight", {kRows, kCols}, type, blocks).file());
    auto checkpoint = Checkpoint::open(directory / "m.gguf");
    BOOST_REQUIRE_MESSAGE(checkpoint.ok(), why(checkpoint));
    TensorSlice slice{TensorRole::kDown, 0, "down", false, kRows, kCols, {1, 3}, {256, 768}};
    const auto part = checkpoint->matrix(slice);
    BOOST_REQUIRE_MESSAGE(part.ok(), why(part));
    BOOST_TEST(!part->copy);
    for (std::size_t row = 0; row < 2; ++row) {
      const std::vector<float> values = row_of(part->view, row);
      for (std::size_t col = 0; col < values.size(); ++col) {
        BOOST_REQUIRE(values[col] == whole[(row + 1) * kCols + 256 + col]);
      }
    }
    BOOST_TEST(checkpoint->bytes_read() == 2 * kernels::row_bytes(dtype, 512));
    slice.col_range = {16, 768};
    const auto cut = checkpoint->matrix(slice);
    BOOST_REQUIRE(!cut.ok());
    BOOST_TEST(cut.error().message.find("'blk.0.ffn_down.weight' at offset") != std::string::npos);
    BOOST_TEST(cut.error().message.find("blocks of") != std::string::npos, cut.error().message);
  }
}

// A tiny model on disk, and what the quantiser makes of it.
struct Quantized {
  explicit Quantized(QuantFormat format) : tensors(random_tensors(wide_config(), 2, DType::kBF16)) {
    const auto model = directory / "model";
    std::filesystem::create_directory(model);
    write_model(model, tensors, DType::kBF16);
    write_file(model / "config.json",
               R"({"model_type":"llama","vocab_size":100,"hidden_size":256,"intermediate_size":1280,)"
               R"("num_hidden_layers":1,"num_attention_heads":16,"num_key_value_heads":8,"head_dim":32,)"
               R"("max_position_embeddings":64,"torch_dtype":"bfloat16","rms_norm_eps":1e-6})");
    write_file(model / "tokenizer.json", "{}");
    const auto report = quantize_model(model, directory / "out", format);
    BOOST_REQUIRE_MESSAGE(report.ok(), why(report));
    bytes_after = report->bytes_after;
  }

  TemporaryDirectory directory;
  TinyTensors tensors;
  std::uint64_t bytes_after = 0;
};

BOOST_AUTO_TEST_CASE(a_quantised_model_is_read_back_in_place_within_its_steps) {
  for (const QuantFormat format : {QuantFormat::kQ8, QuantFormat::kQ4}) {
    const Quantized quantized(format);
    const auto out = quantized.directory / "out";
    BOOST_TEST(std::filesystem::exists(out / "tokenizer.json"));
    const auto config = load_config(out);
    BOOST_REQUIRE_MESSAGE(config.ok(), why(config));
    const auto tensors = tensor_slices(*config, {0, 1, 1, 0, 1});
    auto checkpoint = Checkpoint::open(out);
    BOOST_REQUIRE_MESSAGE(checkpoint.ok(), why(checkpoint));
    BOOST_TEST(*checkpoint->bytes_of(tensors) == quantized.bytes_after);
    BOOST_TEST(weight_bytes(*config, {0, 1, 1, 0, 1}) == quantized.bytes_after);
    for (const TensorSlice& tensor : tensors) {
      const TinyTensor& original = quantized.tensors.at(tensor.name);
      if (tensor.is_vector) {
        BOOST_TEST((*checkpoint->vector(tensor) == original.values));
        continue;
      }
      const auto matrix = checkpoint->matrix(tensor);
      BOOST_REQUIRE_MESSAGE(matrix.ok(), why(matrix));
      BOOST_TEST(!matrix->copy);
      BOOST_TEST((matrix->view.dtype == quantised_type(format, tensor.role)));
      BOOST_TEST(reinterpret_cast<std::uintptr_t>(matrix->view.data) % 64 == 0u);
      const double steps =
          matrix->view.dtype == DType::kInt8 ? 127 : 4;  // int4 trades its largest errors for smaller ones
      for (std::size_t row = 0; row < tensor.rows; ++row) {
        const std::vector<float> values = row_of(matrix->view, row);
        double largest = 0;
        for (std::size_t col = 0; col < values.size(); ++col) {
          largest = std::max<double>(largest, std::abs(original.values[row * tensor.cols + col]));
        }
        for (std::size_t col = 0; col < values.size(); ++col) {
          BOOST_REQUIRE_SMALL(values[col] - double{original.values[row * tensor.cols + col]}, largest / steps);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(what_was_not_written_by_the_quantiser_is_refused) {
  const Quantized quantized(QuantFormat::kQ8);
  const auto again = quantize_model(quantized.directory / "out", quantized.directory / "new", QuantFormat::kQ4);
  BOOST_REQUIRE(!again.ok());
  BOOST_TEST(again.error().message.find("quantised already") != std::string::npos);
  BOOST_TEST(!quantize_model(quantized.directory / "model", quantized.directory / "out", QuantFormat::kQ8).ok());
  const auto path = quantized.directory / "out" / "config.json";
  std::ifstream file(path);
  const std::string config{std::istreambuf_iterator<char>(file), {}};
  const auto with = [&](std::string_view from, std::string_view to) {
    std::string changed = config;
    changed.replace(changed.find(from), from.size(), to);
    return parse_config(changed, "config.json");
  };
  BOOST_TEST(with("\"q8\"", "\"q3\"").error().message.find("quantization_config.format") != std::string::npos);
  BOOST_TEST(with("\"troupe\"", "\"gptq\"").error().message.find("'quantization_config'") != std::string::npos);
  write_file(path, config);
  // A matrix of another shape than the config calls for.
  auto checkpoint = Checkpoint::open(quantized.directory / "out");
  TensorSlice slice{TensorRole::kDown, 0, "model.layers.0.mlp.down_proj.weight", false, 256, 1216, {0, 256}, {0, 1216}};
  const auto matrix = checkpoint->matrix(slice);
  BOOST_REQUIRE(!matrix.ok());
  BOOST_TEST(matrix.error().message.find("down_proj.weight' at offset") != std::string::npos, matrix.error().message);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model::testing
