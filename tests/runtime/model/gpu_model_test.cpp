// Models on a GPU: on an emulated one if the environment says TROUPE_GPU=emulated, else on cuda:0.
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <map>
#include <random>

#include "kernels/select.h"
#include "runtime/collective/solo.h"
#include "runtime/model/config.h"
#include "runtime/model/transformer.h"
#include "tests/runtime/model/double_forward.h"
#include "tests/runtime/model/thread_cluster.h"
#include "tests/runtime/model/tiny_model.h"

namespace troupe::model::testing {
namespace {

ModelConfig small_config() {
  ModelConfig config;
  config.model_type = "llama";
  config.vocab_size = 61;
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.num_layers = 2;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.head_dim = 32;
  config.max_position_embeddings = 256;
  config.sliding_windows = {0, 0};
  return config;
}

struct TestModel {
  explicit TestModel(const ModelConfig& config)
      : config(config), tensors(random_tensors(config, 1, kernels::DType::kBF16)) {
    write_model(directory.path(), tensors, kernels::DType::kBF16);
  }

  ModelConfig config;
  TinyTensors tensors;
  TemporaryDirectory directory;
};

ThreadCluster::Options on_gpu(const std::vector<std::uint32_t>& cuts = {}, std::uint32_t world_size = 1) {
  ThreadCluster::Options options;
  options.cuts = cuts;
  options.world_size = world_size;
  options.implementation = "gpu";
  return options;
}

std::vector<std::uint32_t> some_tokens(std::size_t count, std::uint32_t seed, std::uint32_t vocab_size) {
  std::mt19937 random(seed);
  std::vector<std::uint32_t> tokens(count);
  for (auto& token : tokens) token = random() % vocab_size;
  return tokens;
}

// Activations are rounded to 8 bits of mantissa before each product: logits, which are around 1, may move by this.
constexpr double kTolerance = 0.05;

void check_splits(const ModelConfig& config) {
  const TestModel model(config);
  const auto tokens = some_tokens(19, 5, config.vocab_size);
  const auto expected = double_forward(config, model.tensors, tokens);
  double largest_logit = 0;
  for (const auto& row : expected) {
    for (const double logit : row) largest_logit = std::max(largest_logit, std::abs(logit));
  }
  struct Split {
    std::vector<std::uint32_t> cuts;
    std::uint32_t world_size;
  };
  for (const Split& split : {Split{{}, 1}, Split{{1}, 1}, Split{{}, 2}}) {
    BOOST_TEST_CONTEXT(split.cuts.size() + 1 << " stages of " << split.world_size << " ranks") {
      ThreadCluster cluster(model.directory.path(), config, on_gpu(split.cuts, split.world_size));
      TestSequence sequence{tokens, 0, {}};
      const auto rows = cluster.prefill(sequence);
      BOOST_REQUIRE(rows.size() == expected.size());
      double largest = 0;
      for (std::size_t row = 0; row < rows.size(); ++row) {
        for (std::size_t col = 0; col < rows[row].size(); ++col) {
          largest = std::max(largest, std::abs(rows[row][col] - expected[row][col]));
        }
      }
      BOOST_TEST(largest < kTolerance * largest_logit);
    }
  }
}

BOOST_AUTO_TEST_SUITE(gpu_model)

BOOST_AUTO_TEST_CASE(a_dense_model_equals_the_formulas_in_stages_and_ranks) { check_splits(small_config()); }

BOOST_AUTO_TEST_CASE(biases_head_norms_and_windows_reach_the_gpu) {
  ModelConfig config = small_config();
  config.qkv_bias = config.output_bias = config.mlp_bias = true;
  config.qk_norm = true;
  config.sliding_windows = {7, 0};
  check_splits(config);
}

BOOST_AUTO_TEST_CASE(a_row_has_the_same_bits_alone_in_pieces_and_beside_others) {
  const TestModel model(small_config());
  ThreadCluster cluster(model.directory.path(), model.config, on_gpu());
  const auto tokens = some_tokens(21, 7, model.config.vocab_size);
  TestSequence whole{tokens, 0, {}};
  const auto expected = cluster.prefill(whole);
  for (const std::uint32_t chunk : {1u, 4u, 16u}) {
    TestSequence sequence{tokens, 0, {}};
    BOOST_TEST((cluster.prefill(sequence, chunk) == expected));
    cluster.release(sequence);
  }
  TestSequence other{some_tokens(9, 8, model.config.vocab_size), 0, {}}, again{tokens, 0, {}};
  const auto together = cluster.step({{&other, 9, true}, {&again, 21, true}});
  BOOST_TEST((std::vector(together.begin() + 9, together.end()) == expected));
}

BOOST_AUTO_TEST_CASE(groups_are_replaced_as_after_a_lost_member) {
  const TestModel model(small_config());
  ThreadCluster cluster(model.directory.path(), model.config, on_gpu({}, 2));
  const auto tokens = some_tokens(5, 9, model.config.vocab_size);
  const auto before = cluster.greedy(tokens, 3);
  cluster.replace_groups("a test");
  BOOST_TEST(cluster.greedy(tokens, 3) == before, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_shard_takes_three_arenas_and_says_how_full_they_are) {
  const TestModel model(small_config());
  const auto kernels = std::move(kernels::make_kernels({.cores = {}, .gpu = 0})).value();
  const std::uint64_t before = kernels->memory().use().bytes, arenas_before = Arena::system_allocations();
  const auto alone = collective::make_solo_communicator();
  const TransformerOptions options = {.num_blocks = 4, .num_swap_blocks = 2};
  auto transformer =
      Transformer::load(model.directory.path(), model.config, {0, 2, 2, 0, 1}, *kernels, *alone, options);
  BOOST_REQUIRE_MESSAGE(transformer.ok(), why(transformer));
  // Weights, pages and activations on the device; swapped blocks and activations in pinned memory.
  BOOST_TEST(Arena::system_allocations() - arenas_before == 5u);
  const auto levels = (*transformer)->memory_levels();
  BOOST_REQUIRE(levels.ok());
  std::map<std::string, ArenaLevel> by_name;
  for (const ArenaLevel& level : *levels) {
    BOOST_TEST_CONTEXT(level.arena) {
      BOOST_TEST(level.used > 0u);
      BOOST_TEST(level.used <= level.peak);
      BOOST_TEST(level.used + level.largest_free <= level.capacity);
    }
    by_name[std::string(level.arena)] = level;
  }
  BOOST_REQUIRE(by_name.size() == 7u);
  BOOST_TEST(by_name["weights"].used == by_name["weights"].capacity);
  BOOST_TEST(by_name["kv"].used >= 4 * bytes_per_block(model.config, {0, 2, 2, 0, 1}, options.block_size));
  BOOST_TEST(by_name["device"].used - before ==
             by_name["weights"].capacity + by_name["kv"].capacity + by_name["scratch"].capacity);
  BOOST_TEST(by_name["pinned"].used >= by_name["host_scratch"].capacity + by_name["swap"].capacity);
}

BOOST_AUTO_TEST_CASE(a_model_that_does_not_fit_is_refused_before_anything_is_read) {
  const TestModel model(small_config());
  const auto kernels = std::move(kernels::make_kernels({.cores = {}, .gpu = 0})).value();
  const auto alone = collective::make_solo_communicator();
  const auto refused = Transformer::load(model.directory.path(), model.config, {0, 2, 2, 0, 1}, *kernels, *alone,
                                         {.num_blocks = 200'000'000});
  BOOST_REQUIRE(!refused.ok());
  BOOST_TEST((refused.error().code == ErrorCode::kResourceExhausted));
  BOOST_TEST(refused.error().message.find("KV pages 3276800000000 (limit kv_memory)") != std::string::npos);
  BOOST_TEST(refused.error().message.find("lower limits.kv_memory to ") != std::string::npos);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model::testing
