#include "runtime/model/expert_shard.h"

#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <filesystem>
#include <functional>
#include <limits>
#include <random>
#include <set>

#include "kernels/select.h"
#include "tests/runtime/model/gguf_model.h"
#include "tests/runtime/model/guarded_kernels.h"
#include "tests/runtime/model/thread_cluster.h"
#include "tests/runtime/model/tiny_model.h"

// Expert shards by themselves, and whole models whose experts they hold.
namespace troupe::model::testing {
namespace {

constexpr std::uint32_t kExperts = 5;
constexpr std::uint32_t kMaxRows = 8;

// Layer 1 has no experts.
ModelConfig small_config() {
  ModelConfig config;
  config.model_type = "mixtral";
  config.vocab_size = 61;
  config.hidden_size = 20;
  config.intermediate_size = 13;
  config.num_layers = 3;
  config.num_heads = 6;
  config.num_kv_heads = 3;
  config.head_dim = 10;
  config.max_position_embeddings = 256;
  config.sliding_windows = {0, 0, 0};
  config.num_experts = kExperts;
  config.num_experts_per_token = 2;
  config.normalise_experts = true;
  config.dense_layers = {false, true, false};
  config.dense_intermediate_size = 17;
  return config;
}

struct TestModel {
  explicit TestModel(const ModelConfig& config = small_config(), kernels::DType dtype = kernels::DType::kF32)
      : config(config), tensors(random_tensors(config, 1, dtype)) {
    write_model(directory.path(), tensors, dtype);
  }

  ModelConfig config;
  TinyTensors tensors;
  TemporaryDirectory directory;
};

std::vector<std::uint32_t> some_tokens(std::size_t count, std::uint32_t vocab_size) {
  std::mt19937 random(3);
  std::vector<std::uint32_t> tokens(count);
  for (auto& token : tokens) token = random() % vocab_size;
  return tokens;
}

std::vector<std::vector<float>> logits_of(ThreadCluster& cluster, const std::vector<std::uint32_t>& tokens,
                                          std::uint32_t chunk = 64) {
  TestSequence sequence{tokens, 0, {}};
  auto rows = cluster.prefill(sequence, chunk);
  cluster.release(sequence);
  return rows;
}

double largest_difference(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
  BOOST_REQUIRE(a.size() == b.size());
  double largest = 0;
  for (std::size_t row = 0; row < a.size(); ++row) {
    for (std::size_t col = 0; col < a[row].size(); ++col) {
      largest = std::max(largest, std::abs(double{a[row][col]} - b[row][col]));
    }
  }
  return largest;
}

// Experts 2, 3 and 4 of 5, with the rows and pairs of one dispatch, as yet right.
struct Scene {
  explicit Scene(std::unique_ptr<kernels::Kernels> made) : kernels(std::move(made)) {
    const Slice slice = {.first_layer = 0, .last_layer = 3, .num_layers = 3, .expert_shards = 2, .expert_shard = 1};
    auto loaded = ExpertShard::load(model.directory.path(), model.config, slice, *kernels,
                                    {.max_batch_tokens = kMaxRows, .packed_cache = {}});
    BOOST_REQUIRE_MESSAGE(loaded.ok(), why(loaded));
    experts = std::move(*loaded);
    std::mt19937 random(8);
    std::normal_distribution<float> normal;
    for (float& value : rows) value = normal(random);
  }
  Scene() : Scene(std::move(kernels::make_cpu_kernels({{}, "reference"})).value()) {}

  Result<void> compute() {
    const std::size_t count = rows.size() / model.config.hidden_size;
    sum.assign(rows.size(), std::numeric_limits<float>::quiet_NaN());
    return experts->compute(layer, {rows.data(), count, model.config.hidden_size},
                            {pair_rows, pair_experts, pair_weights}, {sum.data(), count, model.config.hidden_size});
  }

  // What the formulas say of one row, in double.
  std::vector<double> expected(std::size_t row) const {
    const std::size_t hidden = model.config.hidden_size, width = model.config.intermediate_size;
    std::vector<double> out(hidden, 0.0);
    for (std::size_t pair = 0; pair < pair_rows.size(); ++pair) {
      if (pair_rows[pair] != row) continue;
      const std::string name =
          "model.layers." + std::to_string(layer) + ".mlp.experts." + std::to_string(pair_experts[pair]) + ".";
      const auto& gate = model.tensors.at(name + "gate_proj.weight").values;
      const auto& up = model.tensors.at(name + "up_proj.weight").values;
      const auto& down = model.tensors.at(name + "down_proj.weight").values;
      for (std::size_t i = 0; i < width; ++i) {
        double g = 0, u = 0;
        for (std::size_t k = 0; k < hidden; ++k) {
          g += double{gate[i * hidden + k]} * rows[row * hidden + k];
          u += double{up[i * hidden + k]} * rows[row * hidden + k];
        }
        const double gated = g / (1 + std::exp(-g)) * u;
        for (std::size_t k = 0; k < hidden; ++k) out[k] += pair_weights[pair] * gated * down[k * width + i];
      }
    }
    return out;
  }

  TestModel model;
  std::unique_ptr<kernels::Kernels> kernels;
  std::unique_ptr<ExpertShard> experts;
  std::uint32_t layer = 2;
  std::vector<float> rows = std::vector<float>(4 * small_config().hidden_size);
  std::vector<std::uint32_t> pair_rows = {0, 2, 1, 2, 3};
  std::vector<std::uint32_t> pair_experts = {2, 2, 4, 4, 4};
  std::vector<float> pair_weights = {0.5f, 0.25f, 1.0f, 0.75f, -0.5f};
  std::vector<float> sum;
};

void check_formulas(Scene& scene) {
  const auto done = scene.compute();
  BOOST_REQUIRE_MESSAGE(done.ok(), why(done));
  for (std::size_t row = 0; row < 4; ++row) {
    const auto expected = scene.expected(row);
    for (std::size_t col = 0; col < expected.size(); ++col) {
      BOOST_TEST(std::abs(scene.sum[row * expected.size() + col] - expected[col]) < 1e-4);
    }
  }
}

BOOST_AUTO_TEST_SUITE(expert_shard)

BOOST_AUTO_TEST_CASE(rows_become_the_weighted_sums_that_the_formulas_say) {
  for (const char* implementation : {"reference", ""}) {
    Scene scene(std::move(kernels::make_cpu_kernels({{}, implementation})).value());
    check_formulas(scene);
    scene.layer = 0;
    check_formulas(scene);
  }
}

BOOST_AUTO_TEST_CASE(a_device_of_its_own_memory_computes_the_same_bits) {
  Scene host, device(make_guarded_kernels());
  BOOST_REQUIRE(host.compute().ok());
  const auto done = device.compute();
  BOOST_REQUIRE_MESSAGE(done.ok(), why(done));
  BOOST_TEST((host.sum == device.sum));
  BOOST_REQUIRE(device.compute().ok());
  BOOST_TEST((host.sum == device.sum));
}

BOOST_AUTO_TEST_CASE(a_row_has_the_same_bits_whatever_is_beside_it) {
  Scene scene;
  BOOST_REQUIRE(scene.compute().ok());
  const std::size_t hidden = scene.model.config.hidden_size;
  const std::vector<float> third(scene.sum.begin() + 2 * hidden, scene.sum.begin() + 3 * hidden);
  scene.rows = {scene.rows.begin() + 2 * hidden, scene.rows.begin() + 3 * hidden};
  scene.pair_rows = {0, 0};
  scene.pair_experts = {2, 4};
  scene.pair_weights = {0.25f, 0.75f};
  BOOST_REQUIRE(scene.compute().ok());
  BOOST_TEST((scene.sum == third));
}

BOOST_AUTO_TEST_CASE(rows_that_go_nowhere_become_zeros) {
  Scene scene;
  scene.pair_rows.clear();
  scene.pair_experts.clear();
  scene.pair_weights.clear();
  BOOST_REQUIRE(scene.compute().ok());
  BOOST_TEST((scene.sum == std::vector<float>(scene.rows.size())));
}

BOOST_AUTO_TEST_CASE(what_does_not_fit_is_refused_by_name) {
  const auto check = [](const std::function<void(Scene&)>& spoil, const std::string& hint) {
    Scene scene;
    spoil(scene);
    const auto done = scene.compute();
    BOOST_REQUIRE_MESSAGE(!done.ok(), hint);
    BOOST_TEST((done.error().code == ErrorCode::kInvalidArgument));
    BOOST_TEST(done.error().message.find(hint) != std::string::npos, done.error().message);
  };
  check([](Scene& s) { s.layer = 3; }, "layer 3 has no experts here");
  check([](Scene& s) { s.layer = 1; }, "layer 1 has no experts here");
  check([](Scene& s) { s.rows.resize((kMaxRows + 1) * s.model.config.hidden_size); }, "at most (8, 20) fit");
  check([](Scene& s) { s.pair_rows[4] = 4; }, "pair 4: there is no row 4");
  check([](Scene& s) { s.pair_experts[0] = 1; }, "pair 0: expert 1 is not one of 2 to 4");
  check([](Scene& s) { s.pair_experts[4] = 5; }, "pair 4: expert 5 is not one of 2 to 4");
  check([](Scene& s) { s.pair_experts[4] = 3; }, "pair 4 does not come after");
  check([](Scene& s) { std::swap(s.pair_rows[0], s.pair_rows[1]); }, "pair 1 does not come after");
  check([](Scene& s) { s.pair_rows[1] = 0; }, "pair 1 does not come after");
  check([](Scene& s) { s.pair_weights.pop_back(); }, "5 rows, 5 experts and 4 weights");
  check([](Scene& s) { s.pair_experts.pop_back(); }, "5 rows, 4 experts and 5 weights");
  check(
      [](Scene& s) {
        s.rows.resize(s.model.config.hidden_size);
        s.pair_rows = {0, 0, 0};
        s.pair_experts = {2, 3, 4};
        s.pair_weights = {1, 1, 1};
      },
      "3 pairs of 1 rows are more than the 2 experts");
}

BOOST_AUTO_TEST_CASE(together_they_hold_every_expert_once_and_the_ranks_none) {
  const ModelConfig config = small_config();
  const auto names = [&](const Slice& slice) {
    std::multiset<std::string> found;
    for (const TensorSlice& tensor : tensor_slices(config, slice)) {
      if (is_of_an_expert(tensor.role)) found.insert(tensor.name);
    }
    return found;
  };
  const std::multiset<std::string> all = names({0, 3, 3, 0, 1});
  for (std::uint32_t shards = 1; shards <= kExperts; ++shards) {
    std::multiset<std::string> together;
    std::uint64_t bytes = 0;
    Slice slice = {.first_layer = 0, .last_layer = 3, .num_layers = 3, .expert_shards = shards};
    BOOST_TEST(names(slice).empty());
    bytes += weight_bytes(config, slice);
    for (std::uint32_t number = 0; number < shards; ++number) {
      slice.expert_shard = number;
      BOOST_REQUIRE(check_slice(config, slice).ok());
      together.merge(names(slice));
      for (const TensorSlice& tensor : tensor_slices(config, slice)) {
        BOOST_TEST((is_of_an_expert(tensor.role) && tensor.elements() == tensor.rows * tensor.cols));
      }
      bytes += weight_bytes(config, slice);
    }
    BOOST_TEST((together == all));
    BOOST_TEST(bytes == weight_bytes(config, {0, 3, 3, 0, 1}));
  }
}

BOOST_AUTO_TEST_CASE(slices_without_experts_or_with_too_few_are_refused) {
  const auto check = [](const ModelConfig& config, const Slice& slice, const std::string& hint) {
    const auto checked = check_slice(config, slice);
    BOOST_REQUIRE_MESSAGE(!checked.ok(), hint);
    BOOST_TEST(checked.error().message.find(hint) != std::string::npos, checked.error().message);
  };
  ModelConfig dense = small_config();
  dense.num_experts = 0;
  dense.dense_layers.clear();
  check(dense, {.last_layer = 3, .num_layers = 3, .expert_shards = 1}, "the model has no experts");
  check(small_config(), {.first_layer = 1, .last_layer = 2, .num_layers = 3, .expert_shards = 1},
        "none of the layers 1 to 1 has experts");
  check(small_config(), {.last_layer = 3, .num_layers = 3, .expert_shards = 6}, "more than the 5 experts");
  check(small_config(), {.last_layer = 3, .num_layers = 3, .expert_shards = 2, .expert_shard = 2},
        "expert shard 2 of 2");
  // A rank that has no part of the experts may be narrower than they would allow.
  ModelConfig narrow = small_config();
  narrow.intermediate_size = 2;
  BOOST_TEST(!check_slice(narrow, {.last_layer = 3, .num_layers = 3, .world_size = 3}).ok());
  BOOST_TEST(check_slice(narrow, {.last_layer = 3, .num_layers = 3, .world_size = 3, .expert_shards = 2}).ok());
}

BOOST_AUTO_TEST_CASE(one_expert_shard_gives_the_bits_of_a_rank_with_all_experts) {
  const TestModel model;
  const auto tokens = some_tokens(23, model.config.vocab_size);
  for (const char* implementation : {"reference", "guarded", ""}) {
    ThreadCluster::Options options;
    options.implementation = implementation;
    ThreadCluster whole(model.directory.path(), model.config, options);
    options.expert_shards = 1;
    options.expert_implementation = *implementation == 'g' ? "reference" : implementation;
    ThreadCluster split(model.directory.path(), model.config, options);
    BOOST_TEST((logits_of(whole, tokens) == logits_of(split, tokens)));
  }
}

BOOST_AUTO_TEST_CASE(every_split_is_close_to_a_rank_with_all_experts_and_a_shared_one_is_added_once) {
  ModelConfig config = small_config();
  config.shared_intermediate_size = 11;
  config.normalise_experts = false;
  const TestModel model(config);
  const auto tokens = some_tokens(23, config.vocab_size);
  ThreadCluster whole(model.directory.path(), config, {});
  const auto expected = logits_of(whole, tokens);
  for (const std::vector<std::uint32_t>& cuts : {std::vector<std::uint32_t>{}, {1}, {1, 2}}) {
    for (std::uint32_t world_size = 1; world_size <= 3; ++world_size) {
      for (std::uint32_t shards = 1; shards <= kExperts; ++shards) {
        BOOST_TEST_CONTEXT(cuts.size() + 1 << " stages of " << world_size << " ranks and " << shards << " shards") {
          ThreadCluster::Options options;
          options.cuts = cuts;
          options.world_size = world_size;
          options.expert_shards = shards;
          ThreadCluster split(model.directory.path(), config, options);
          const auto rows = logits_of(split, tokens);
          BOOST_TEST(largest_difference(rows, expected) < 1e-4);
          BOOST_TEST((logits_of(split, tokens, 5) == rows), "a prompt in pieces has the same bits");
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_rank_asks_once_for_each_layer_that_has_experts) {
  const TestModel model;
  ThreadCluster::Options options;
  options.world_size = 2;
  options.expert_shards = 1;
  ThreadCluster cluster(model.directory.path(), model.config, options);
  logits_of(cluster, some_tokens(9, model.config.vocab_size));
  BOOST_TEST(cluster.experts(0, 0).dispatches == 2u);
  BOOST_TEST(cluster.experts(0, 1).dispatches == 0u);
  BOOST_TEST(cluster.transformer(0, 0).expert_wait_ns() > 0u);
  BOOST_TEST(cluster.transformer(0, 1).expert_wait_ns() == 0u);
}

BOOST_AUTO_TEST_CASE(a_gguf_file_has_the_same_experts) {
  ModelConfig config = small_config();
  config.dense_layers.clear();
  config.dense_intermediate_size = 0;
  const TestModel model(config);
  const TemporaryDirectory directory;
  write_file(directory / "m.gguf", gguf_model(config, "llama", model.tensors).file());
  const auto read = load_config(directory / "m.gguf");
  BOOST_REQUIRE_MESSAGE(read.ok(), why(read));
  const auto tokens = some_tokens(11, config.vocab_size);
  ThreadCluster::Options options;
  options.expert_shards = 3;
  ThreadCluster from_gguf(directory / "m.gguf", *read, options);
  options.expert_shards = 0;
  ThreadCluster whole(directory / "m.gguf", *read, options);
  BOOST_TEST(largest_difference(logits_of(from_gguf, tokens), logits_of(whole, tokens)) < 1e-4);
}

BOOST_AUTO_TEST_CASE(each_expert_shard_has_a_packed_cache_of_its_own) {
  if (!kernels::select_cpu_implementation(kernels::detect_cpu_features(), "avx2").ok()) return;
  ModelConfig config = small_config();
  config.hidden_size = 64;
  config.intermediate_size = 80;
  config.dtype = kernels::DType::kBF16;
  const TestModel model(config, kernels::DType::kBF16);
  const auto kernels = std::move(kernels::make_cpu_kernels({{}, "avx2"})).value();
  const std::filesystem::path cache = model.directory.path() / "cache";
  const auto load = [&](std::uint32_t number) {
    auto weights = ShardWeights::load(model.directory.path(), config,
                                      {.last_layer = 3, .num_layers = 3, .expert_shards = 2, .expert_shard = number},
                                      *kernels, cache);
    BOOST_REQUIRE_MESSAGE(weights.ok(), why(weights));
    return std::move(*weights);
  };
  std::vector<std::vector<std::byte>> images;
  for (const std::uint32_t number : {0u, 1u}) {
    const ShardWeights first = load(number);
    BOOST_REQUIRE(first.writer != nullptr);
    first.writer->wait();
    const ShardWeights again = load(number);
    BOOST_TEST(again.writer == nullptr, "there is nothing to write");
    const auto image = first.layers[2].experts.front().down.weight->image();
    BOOST_TEST(std::ranges::equal(image, again.layers[2].experts.front().down.weight->image()));
    images.emplace_back(image.begin(), image.end());
  }
  BOOST_TEST((images[0] != images[1]));
  BOOST_TEST(std::distance(std::filesystem::directory_iterator(cache), std::filesystem::directory_iterator()) == 2);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model::testing
