#include "runtime/model/packed_cache.h"

#include <boost/test/unit_test.hpp>
#include <filesystem>
#include <fstream>

#include "kernels/select.h"
#include "runtime/model/weights.h"
#include "tests/runtime/model/tiny_model.h"

namespace troupe::model::testing {
namespace {

namespace fs = std::filesystem;

ModelConfig small_config() {
  ModelConfig config;
  config.model_type = "llama";
  config.vocab_size = 96;
  config.hidden_size = 64;
  config.intermediate_size = 80;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 16;
  config.max_position_embeddings = 64;
  config.sliding_windows.assign(2, 0);
  config.dtype = kernels::DType::kBF16;
  return config;
}

struct Loaded {
  std::unique_ptr<kernels::Kernels> kernels;
  ShardWeights weights;
};

std::unique_ptr<Loaded> load(const fs::path& model, const fs::path& cache, const std::string& implementation = "avx2") {
  auto kernels = kernels::make_cpu_kernels({.cores = {0}, .implementation = implementation});
  BOOST_REQUIRE_MESSAGE(kernels.ok(), why(kernels));
  const ModelConfig config = small_config();
  auto weights = ShardWeights::load(model, config, {0, 2, 2, 0, 1}, **kernels, cache);
  BOOST_REQUIRE_MESSAGE(weights.ok(), why(weights));
  return std::make_unique<Loaded>(Loaded{std::move(kernels).value(), std::move(weights).value()});
}

bool runs(const char* implementation) {
  return kernels::select_cpu_implementation(kernels::detect_cpu_features(), implementation).ok();
}

// The reference kernels keep no images.
boost::test_tools::assertion_result runs_avx2(boost::unit_test::test_unit_id) { return runs("avx2"); }

std::vector<fs::path> files_in(const fs::path& folder) {
  std::vector<fs::path> files;
  if (!fs::exists(folder)) return files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  return files;
}

bool same_images(const ShardWeights& a, const ShardWeights& b) {
  const auto same = [](const Linear& left, const Linear& right) {
    return std::ranges::equal(left.weight->image(), right.weight->image());
  };
  for (std::size_t i = 0; i < a.layers.size(); ++i) {
    const LayerWeights& x = a.layers[i];
    const LayerWeights& y = b.layers[i];
    if (!same(x.query, y.query) || !same(x.output, y.output) || !same(x.mlp.down, y.mlp.down)) return false;
  }
  return same(a.lm_head, b.lm_head);
}

struct Folder {
  Folder() {
    const auto dtype = kernels::DType::kBF16;
    write_model(directory.path(), random_tensors(small_config(), 1, dtype), dtype);
  }
  fs::path model() const { return directory.path(); }
  fs::path cache() const { return directory.path() / "cache"; }

  TemporaryDirectory directory;
};

BOOST_AUTO_TEST_SUITE(packed_cache, *boost::unit_test::precondition(&runs_avx2))

BOOST_FIXTURE_TEST_CASE(a_later_load_takes_what_an_earlier_one_has_kept, Folder) {
  const auto first = load(model(), cache());
  BOOST_REQUIRE(first->weights.writer != nullptr);
  first->weights.writer->wait();
  BOOST_REQUIRE(files_in(cache()).size() == 1u);
  const auto second = load(model(), cache());
  BOOST_TEST(second->weights.writer == nullptr, "there is nothing to write");
  BOOST_TEST(same_images(first->weights, second->weights));
  BOOST_TEST(second->weights.layers_size.bytes == first->weights.layers_size.bytes);
}

BOOST_FIXTURE_TEST_CASE(a_changed_model_or_another_kind_of_kernels_is_packed_anew, Folder) {
  load(model(), cache())->weights.writer->wait();
  fs::last_write_time(model() / "model.safetensors", fs::file_time_type::clock::now() + std::chrono::seconds(5));
  const auto changed = load(model(), cache());
  BOOST_REQUIRE(changed->weights.writer != nullptr);
  changed->weights.writer->wait();
  BOOST_TEST(files_in(cache()).size() == 1u, "it takes the other's place");
  if (!runs("avx512")) return;
  const auto other = load(model(), cache(), "avx512");
  BOOST_REQUIRE(other->weights.writer != nullptr);
  other->weights.writer->wait();
  BOOST_TEST(files_in(cache()).size() == 2u);
}

BOOST_FIXTURE_TEST_CASE(a_damaged_file_counts_as_none_and_is_replaced, Folder) {
  const auto first = load(model(), cache());
  first->weights.writer->wait();
  const fs::path file = files_in(cache()).front();
  const auto whole = fs::file_size(file);
  for (const std::uintmax_t size : {std::uintmax_t{0}, std::uintmax_t{7}, std::uintmax_t{100}, whole / 2, whole - 1}) {
    fs::resize_file(file, size);
    const auto again = load(model(), cache());
    BOOST_REQUIRE(again->weights.writer != nullptr);
    BOOST_TEST(same_images(first->weights, again->weights));
    again->weights.writer->wait();
    BOOST_TEST(fs::file_size(file) == whole);
  }
}

BOOST_FIXTURE_TEST_CASE(what_a_killed_writer_left_is_removed_and_a_folder_that_cannot_be_is_no_error, Folder) {
  load(model(), cache())->weights.writer->wait();
  const fs::path file = files_in(cache()).front();
  fs::remove(file);
  // No process has this number: it is beyond the largest that there can be.
  std::ofstream(file.string() + ".new.2147483647") << "part";
  load(model(), cache())->weights.writer->wait();
  BOOST_TEST((files_in(cache()) == std::vector<fs::path>{file}));
  const auto nowhere = load(model(), model() / "model.safetensors" / "cache");
  nowhere->weights.writer->wait();
  BOOST_TEST(same_images(nowhere->weights, load(model(), "")->weights));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model::testing
