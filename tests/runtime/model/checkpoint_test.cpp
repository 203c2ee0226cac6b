#include "runtime/model/checkpoint.h"

#include <boost/test/unit_test.hpp>

#include "kernels/cpu/half.h"
#include "tests/runtime/model/tiny_model.h"

namespace troupe::model::testing {
namespace {

const TinyTensors kTensors = {{"m", {{3, 4}, {0, 1, 2, 3, 10, 11, 12, 13, 20, 21, 22, 23}}},
                              {"v", {{5}, {1, 2, 3, 4, 5}}}};

TensorSlice matrix_slice(Range rows, Range cols) { return {TensorRole::kQuery, 0, "m", false, 3, 4, rows, cols}; }
TensorSlice vector_slice(Range range) { return {TensorRole::kQueryBias, 0, "v", true, 1, 5, {0, 1}, range}; }

std::vector<float> values(const LoadedMatrix& matrix) {
  std::vector<float> out;
  for (std::size_t row = 0; row < matrix.view.rows; ++row) {
    for (std::size_t col = 0; col < matrix.view.cols; ++col) {
      out.push_back(kernels::load_as_f32(matrix.view.data, matrix.view.dtype, row * matrix.view.row_stride + col));
    }
  }
  return out;
}

Checkpoint opened(const std::filesystem::path& directory) {
  auto checkpoint = Checkpoint::open(directory);
  BOOST_REQUIRE_MESSAGE(checkpoint.ok(), why(checkpoint));
  return std::move(checkpoint).value();
}

// What is wrong with the checkpoint or, if it opens, with the tensor in it.
std::string error_of(const std::filesystem::path& directory, const TensorSlice& slice) {
  auto checkpoint = Checkpoint::open(directory);
  if (!checkpoint.ok()) return checkpoint.error().message;
  const auto matrix = checkpoint->matrix(slice);
  BOOST_REQUIRE(!matrix.ok());
  return matrix.error().message;
}

void check_names(const std::string& message, std::initializer_list<std::string_view> hints) {
  for (const std::string_view hint : hints) BOOST_TEST(message.find(hint) != std::string::npos, message);
}

BOOST_AUTO_TEST_SUITE(checkpoint)

BOOST_AUTO_TEST_CASE(rows_and_columns_of_every_type_are_cut_out_and_counted) {
  for (const auto dtype : {kernels::DType::kF32, kernels::DType::kF16, kernels::DType::kBF16}) {
    for (const std::size_t files : {1u, 2u}) {
      const TemporaryDirectory directory;
      write_model(directory.path(), kTensors, dtype, files);
      Checkpoint checkpoint = opened(directory.path());
      const auto rows = checkpoint.matrix(matrix_slice({1, 3}, {0, 4}));
      BOOST_REQUIRE_MESSAGE(rows.ok(), why(rows));
      BOOST_TEST((values(*rows) == std::vector<float>{10, 11, 12, 13, 20, 21, 22, 23}));
      const auto columns = checkpoint.matrix(matrix_slice({0, 3}, {1, 3}));
      BOOST_REQUIRE(columns.ok());
      BOOST_TEST((values(*columns) == std::vector<float>{1, 2, 11, 12, 21, 22}));
      BOOST_TEST(!columns->copy);
      const auto vector = checkpoint.vector(vector_slice({1, 4}));
      BOOST_REQUIRE(vector.ok());
      BOOST_TEST((*vector == std::vector<float>{2, 3, 4}));
      BOOST_TEST(checkpoint.bytes_read() == (8 + 6 + 3) * kernels::size_of(dtype));
    }
  }
}

BOOST_AUTO_TEST_CASE(the_places_of_parts_are_their_whole_rows_in_the_mapping) {
  const TemporaryDirectory directory;
  write_model(directory.path(), kTensors, kernels::DType::kBF16, 1);
  Checkpoint checkpoint = opened(directory.path());
  const std::vector<TensorSlice> slices = {matrix_slice({1, 3}, {0, 4}), matrix_slice({0, 3}, {1, 3}),
                                           vector_slice({1, 4})};
  const auto places = checkpoint.places_of(slices);
  BOOST_REQUIRE_MESSAGE(places.ok(), why(places));
  BOOST_REQUIRE(places->size() == 3u);
  BOOST_TEST((*places)[0].size() == 2 * 4 * 2u);
  BOOST_TEST((*places)[1].size() == 3 * 4 * 2u);
  BOOST_TEST((*places)[2].size() == 5 * 2u);
  BOOST_TEST((*places)[0].data() == checkpoint.matrix(slices[0])->view.data);
  BOOST_TEST((*places)[1].data() + 2 == checkpoint.matrix(slices[1])->view.data);
  BOOST_TEST(checkpoint.bytes_read() == (8 + 6) * 2u);
}

BOOST_AUTO_TEST_CASE(elements_that_lie_unaligned_are_copied) {
  const TemporaryDirectory directory;
  std::string data(1, 'x');
  for (const float value : kTensors.at("m").values) data.append(reinterpret_cast<const char*>(&value), sizeof value);
  write_file(directory / "model.safetensors",
             safetensors_text(R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                              R"("m":{"dtype":"F32","shape":[3,4],"data_offsets":[1,49]}}     )",
                              data));
  Checkpoint checkpoint = opened(directory.path());
  const auto columns = checkpoint.matrix(matrix_slice({1, 3}, {2, 4}));
  BOOST_REQUIRE_MESSAGE(columns.ok(), why(columns));
  BOOST_TEST(reinterpret_cast<std::uintptr_t>(columns->view.data) % sizeof(float) == 0u);
  BOOST_TEST((values(*columns) == std::vector<float>{12, 13, 22, 23}));
}

BOOST_AUTO_TEST_CASE(a_wrong_shape_type_or_name_is_refused_with_its_place) {
  const TemporaryDirectory directory;
  write_file(directory / "model.safetensors",
             safetensors_text(R"({"m":{"dtype":"F32","shape":[4,3],"data_offsets":[0,48]},)"
                              R"("i":{"dtype":"I32","shape":[3,4],"data_offsets":[48,96]}})",
                              std::string(96, '\0')));
  TensorSlice slice = matrix_slice({0, 3}, {0, 4});
  check_names(error_of(directory.path(), slice), {"model.safetensors", "'m' at offset", "[4, 3]", "[3, 4]"});
  slice.name = "i";
  check_names(error_of(directory.path(), slice), {"'i' at offset", "I32", "supported: F32, F16, BF16"});
  slice.name = "absent";
  check_names(error_of(directory.path(), slice), {"model.safetensors", "'absent'", "missing"});
}

BOOST_AUTO_TEST_CASE(only_files_that_are_needed_are_opened) {
  const TemporaryDirectory directory;
  write_tensors(directory / "good.safetensors", kTensors, kernels::DType::kF32);
  write_file(directory / "broken.safetensors", "?");
  write_file(directory / "model.safetensors.index.json",
             R"({"weight_map":{"m":"good.safetensors","other":"broken.safetensors"}})");
  Checkpoint checkpoint = opened(directory.path());
  BOOST_TEST(checkpoint.matrix(matrix_slice({0, 3}, {0, 4})).ok());
  TensorSlice slice = matrix_slice({0, 3}, {0, 4});
  slice.name = "other";
  check_names(error_of(directory.path(), slice), {"broken.safetensors", "too short"});
  slice.name = "absent";
  check_names(error_of(directory.path(), slice), {"index.json", "'absent'"});
}

BOOST_AUTO_TEST_CASE(a_broken_index_is_refused) {
  const TensorSlice slice = matrix_slice({0, 3}, {0, 4});
  for (const std::string content :
       {"", "[]", "{}", "{\"weight_map\":[]}", "{\"weight_map\":{\"m\":1}}", "{\"weight_map\":{\"m\":{}}}",
        "{\"weight_map\":{\"m\":null}}", "{\"weight_map\":{\"m\":\"a\",\"m\":\"b\"}}",
        "{\"weight_map\":{},\"weight_map\":{}}", "{\"weight_map\":{\"m\":\"../m.safetensors\"}}",
        "{\"weight_map\":{\"m\":\"/etc/passwd\"}}", "{\"weight_map\":{\"m\":\"..\"}}", "{\"weight_map\":{\"m\":\"\"}}",
        "{\"weight_map\":{\"m\":\"a\\u0000b\"}}", "{\"weight_map\":{\"m\":\"absent\"}}",
        "{\"weight_map\":{\"m\":\"a\"}"}) {
    BOOST_TEST_CONTEXT(content) {
      const TemporaryDirectory directory;
      write_file(directory / "model.safetensors.index.json", content);
      check_names(error_of(directory.path(), slice), {directory.path().string()});
    }
  }
  const TemporaryDirectory empty;
  check_names(error_of(empty.path(), slice), {"neither model.safetensors nor model.safetensors.index.json"});
}

BOOST_AUTO_TEST_CASE(links_out_of_the_directory_are_refused_except_into_the_hub_cache) {
  const TemporaryDirectory directory;
  const TensorSlice slice = matrix_slice({0, 3}, {0, 4});
  const auto snapshot = directory / "repository" / "snapshots" / "revision";
  const auto blobs = directory / "repository" / "blobs";
  std::filesystem::create_directories(snapshot);
  std::filesystem::create_directories(blobs);
  write_tensors(blobs / "hash", kTensors, kernels::DType::kF32);
  write_tensors(directory / "outside", kTensors, kernels::DType::kF32);

  std::filesystem::create_symlink("../../blobs/hash", snapshot / "model.safetensors");
  BOOST_TEST(opened(snapshot).matrix(slice).ok());

  std::filesystem::remove(snapshot / "model.safetensors");
  std::filesystem::create_symlink(directory / "outside", snapshot / "model.safetensors");
  check_names(error_of(snapshot, slice), {"outside the model's directory"});
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model::testing
