// Models on a GPU: on an emulated one if the environment says TROUPE_GPU=emulated, else on cuda:0.
#include <algorithm>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <deque>
#include <map>
#include <random>

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/gpu_list.h"
#include "kernels/cuda/gpu_memory.h"
#include "kernels/select.h"
#include "runtime/collective/nccl_communicator.h"
#include "runtime/collective/solo.h"
#include "runtime/model/config.h"
#include "runtime/model/transformer.h"
#include "tests/kernels/cuda/counting_gpu.h"
#include "tests/runtime/collective/nccl_stand_in.h"
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

// Kernels that count what they ask of the GPU.
std::unique_ptr<kernels::Kernels> counted_kernels(kernels::GpuCounts& counts) {
  auto gpu = kernels::gpus_are_emulated() ? kernels::open_emulated_gpu() : kernels::open_gpu(0).value();
  return kernels::make_cuda_kernels(std::make_unique<kernels::CountingGpu>(std::move(gpu), counts)).value();
}

ThreadCluster::Options counted(kernels::GpuCounts& counts) {
  ThreadCluster::Options options;
  options.make_kernels = [&counts] { return counted_kernels(counts); };
  options.transformer.num_blocks = 300;
  return options;
}

ModelConfig with_experts(ModelConfig config) {
  config.model_type = "qwen2_moe";
  config.intermediate_size = 40;
  config.num_experts = 5;
  config.num_experts_per_token = 2;
  config.shared_intermediate_size = 24;
  return config;
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

// What long prompts compute is neither padded nor recorded.
void check_decoding(const ModelConfig& config, std::initializer_list<std::uint32_t> batches) {
  constexpr std::uint32_t kPrompt = 20, kTokens = 40;
  const TestModel model(config);
  kernels::GpuCounts counts;
  ThreadCluster cluster(model.directory.path(), config, counted(counts));
  std::vector<std::vector<std::uint32_t>> texts;
  std::vector<std::vector<std::vector<float>>> expected;
  for (std::uint32_t i = 0; i < *std::max_element(batches.begin(), batches.end()); ++i) {
    texts.push_back(some_tokens(kTokens, 20 + i, config.vocab_size));
    TestSequence whole{texts.back(), 0, {}};
    expected.push_back(cluster.prefill(whole));
    cluster.release(whole);
  }
  BOOST_TEST(counts.recordings == 0);
  for (const std::uint32_t batch : batches) {
    std::vector<TestSequence> sequences;
    for (std::uint32_t i = 0; i < batch; ++i) sequences.push_back({texts[i], 0, {}});
    // Of different lengths.
    for (std::uint32_t i = 0; i < batch; ++i) cluster.step({{&sequences[i], kPrompt - i, false}});
    const int replays_before = counts.replays;
    for (int step = 0; step < 4; ++step) {
      std::vector<StepPart> parts;
      for (TestSequence& sequence : sequences) parts.push_back({&sequence, 1, true});
      const auto rows = cluster.step(parts);
      BOOST_TEST_CONTEXT(batch << " sequences, step " << step) {
        for (std::uint32_t i = 0; i < batch; ++i) BOOST_TEST((rows[i] == expected[i][sequences[i].computed - 1]));
      }
    }
    // Layers and logits, from the second step of these sizes on.
    BOOST_TEST(counts.replays - replays_before >= 6);
    for (TestSequence& sequence : sequences) cluster.release(sequence);
  }
}

BOOST_AUTO_TEST_CASE(decoded_rows_have_the_bits_of_a_prompt_in_batches_of_every_padding) {
  check_decoding(small_config(), {1, 2, 3, 5, 8});
}

BOOST_AUTO_TEST_CASE(decoded_rows_of_experts_have_the_bits_of_a_prompt) {
  check_decoding(with_experts(small_config()), {1, 3});
}

BOOST_AUTO_TEST_CASE(recorded_steps_follow_windows_and_contexts_that_grow_into_further_pieces) {
  ModelConfig config = small_config();
  config.sliding_windows = {0, 70};
  config.max_position_embeddings = 1024;
  const TestModel model(config);
  kernels::GpuCounts counts;
  ThreadCluster::Options options = counted(counts);
  options.transformer.max_batch_tokens = 600;
  options.transformer.max_logits_rows = 8;
  ThreadCluster cluster(model.directory.path(), config, options);
  const auto tokens = some_tokens(522, 3, config.vocab_size);
  TestSequence sequence{tokens, 0, {}};
  cluster.step({{&sequence, 500, false}});
  std::vector<std::vector<float>> rows;
  while (sequence.computed < tokens.size()) rows.push_back(cluster.step({{&sequence, 1, false}}).front());
  BOOST_TEST(counts.replays > 20);
  cluster.release(sequence);
  for (const std::uint32_t length : {505u, 512u, 513u, 522u}) {
    TestSequence whole{{tokens.begin(), tokens.begin() + length}, 0, {}};
    BOOST_TEST((cluster.step({{&whole, length, false}}).front() == rows[length - 501]));
    cluster.release(whole);
  }
}

BOOST_AUTO_TEST_CASE(guesses_behind_a_token_are_recorded_too) {
  const TestModel model(small_config());
  kernels::GpuCounts counts;
  ThreadCluster cluster(model.directory.path(), model.config, counted(counts));
  const auto tokens = some_tokens(40, 11, model.config.vocab_size);
  TestSequence whole{tokens, 0, {}}, guessed{tokens, 0, {}};
  const auto expected = cluster.prefill(whole);
  cluster.step({{&guessed, 20, false}});
  while (guessed.computed < 40) {
    const auto rows = cluster.step({{&guessed, 4, true}});
    for (std::size_t i = 0; i < 4; ++i) BOOST_TEST((rows[i] == expected[guessed.computed - 4 + i]));
  }
  BOOST_TEST(counts.replays >= 6);
}

BOOST_AUTO_TEST_CASE(workspaces_that_grow_make_recordings_void) {
  const TestModel model(small_config());
  kernels::GpuCounts counts;
  ThreadCluster cluster(model.directory.path(), model.config, counted(counts));
  const auto tokens = some_tokens(40, 12, model.config.vocab_size);
  TestSequence sequence{tokens, 0, {}}, other{some_tokens(60, 13, model.config.vocab_size), 0, {}};
  std::vector<std::vector<float>> rows;
  const auto decode = [&](int steps) {
    for (; steps > 0; --steps) rows.push_back(cluster.step({{&sequence, 1, true}}).front());
  };
  decode(10);
  const int before = counts.recordings;
  cluster.step({{&other, 60, false}});
  decode(10);
  BOOST_TEST(counts.recordings == before + 2);
  TestSequence whole{tokens, 0, {}};
  const auto expected = cluster.prefill(whole);
  for (std::size_t i = 0; i < rows.size(); ++i) BOOST_TEST((rows[i] == expected[i]));
}

// The second of them has fewer heads.
BOOST_AUTO_TEST_CASE(ranks_repeat_what_lies_between_their_exchanges) {
  ModelConfig config = small_config();
  config.num_heads = 3;
  config.num_kv_heads = 3;
  const TestModel model(config);
  std::deque<kernels::GpuCounts> counts;
  ThreadCluster::Options options;
  options.world_size = 2;
  options.make_kernels = [&] { return counted_kernels(counts.emplace_back()); };
  ThreadCluster cluster(model.directory.path(), config, options);
  const auto tokens = some_tokens(24, 14, config.vocab_size);
  TestSequence whole{tokens, 0, {}};
  const auto expected = cluster.prefill(whole);
  const int pieces = 2 * static_cast<int>(config.num_layers) + 2;
  for (int group = 0; group < 2; ++group) {
    TestSequence sequence{tokens, 0, {}};
    cluster.step({{&sequence, 18, true}});
    const int recordings = counts[0].recordings, replays = counts[0].replays;
    while (sequence.computed < tokens.size()) {
      const auto rows = cluster.step({{&sequence, 1, true}});
      BOOST_TEST((rows.front() == expected[sequence.computed - 1]));
    }
    // From the second step of a size on, the logits too; a new group leaves them as they are.
    BOOST_TEST(counts[0].recordings - recordings == (group == 0 ? pieces + 1 : 0));
    BOOST_TEST(counts[0].replays - replays == (group == 0 ? 5 : 6) * (pieces + 1));
    BOOST_TEST(counts[1].replays == counts[0].replays);
    cluster.release(sequence);
    cluster.replace_groups("a test");
  }
}

BOOST_AUTO_TEST_CASE(ranks_over_nccl_give_the_first_of_them_the_logits_of_ranks_that_exchange_through_the_host) {
  if (!kernels::gpus_are_emulated()) return;  // the stand-in's memory is the host's
  const TestModel model(small_config());
  ThreadCluster staged(model.directory.path(), model.config, on_gpu({}, 2));
  collective::testing::NcclStandIn stand_in;
  ThreadCluster::Options options;
  options.world_size = 2;
  options.device_logits = true;
  std::uint32_t gpus = 0, groups = 0;
  options.make_kernels = [&] { return kernels::make_cuda_kernels(stand_in.make_gpu(gpus++)).value(); };
  collective::NcclUniqueId id;
  options.suit_group = [&](auto group, kernels::Kernels& kernels) {
    if (groups++ % 2 == 0) id = stand_in.make_id();
    collective::NcclComm* comm = nullptr;  // the stand-in queues what comes before all have joined
    collective::NcclConfig config;
    const collective::NcclFunctions nccl = stand_in.functions();
    nccl.comm_init_rank_config(&comm, 2, id, static_cast<int>(group->rank()), &config);
    return collective::make_nccl_communicator(nccl, comm, std::move(group), kernels.memory()).value();
  };
  ThreadCluster over_nccl(model.directory.path(), model.config, options);
  const auto tokens = some_tokens(24, 14, model.config.vocab_size);
  for (int group = 0; group < 2; ++group) {
    TestSequence here{tokens, 0, {}}, there{tokens, 0, {}};
    BOOST_TEST((over_nccl.step({{&there, 18, true}}) == staged.step({{&here, 18, true}})));
    while (here.computed < tokens.size()) {
      BOOST_TEST((over_nccl.step({{&there, 1, true}}) == staged.step({{&here, 1, true}})));
    }
    staged.release(here);
    over_nccl.release(there);
    over_nccl.replace_groups("a test");
  }
}

// Prompts and decoding of a shard that draws on the GPU.
void count_waits(const ModelConfig& config) {
  const TestModel model(config);
  kernels::GpuCounts counts;
  const auto kernels = counted_kernels(counts);
  const auto group = collective::make_solo_communicator();
  auto loaded =
      Transformer::load(model.directory.path(), config, {0, config.num_layers, config.num_layers, 0, 1}, *kernels,
                        *group, {.num_blocks = 8, .block_size = 16, .max_batch_tokens = 32, .max_batch_sequences = 2});
  BOOST_REQUIRE_MESSAGE(loaded.ok(), why(loaded));
  std::vector<std::uint32_t> next(2, 1), computed(2, 0);
  for (int step = 0; step < 6; ++step) {
    // Two prompts of 9 tokens, then their next tokens.
    std::vector<std::uint32_t> tokens, positions, slots, row_starts{0}, lengths, tables, table_starts{0}, logits_rows;
    for (std::uint32_t i = 0; i < 2; ++i) {
      for (std::uint32_t end = computed[i] + (step == 0 ? 9 : 1); computed[i] < end; ++computed[i]) {
        tokens.push_back(next[i]);
        positions.push_back(computed[i]);
        slots.push_back((1 + i) * 16 + computed[i]);
      }
      row_starts.push_back(static_cast<std::uint32_t>(tokens.size()));
      logits_rows.push_back(row_starts.back() - 1);
      lengths.push_back(computed[i]);
      tables.push_back(1 + i);
      table_starts.push_back(i + 1);
    }
    const int waits_before = counts.synchronizations, uploads_before = counts.uploads;
    const StepBatch batch = {.tokens = tokens,
                             .positions = positions,
                             .slots = slots,
                             .attention = {row_starts, lengths, tables, table_starts},
                             .logits_rows = logits_rows};
    const auto hidden = (*loaded)->forward(batch, {});
    BOOST_REQUIRE_MESSAGE(hidden.ok(), why(hidden));
    const auto logits = (*loaded)->device_logits(*hidden, 0, 2);
    BOOST_REQUIRE_MESSAGE(logits.ok(), why(logits));
    const std::vector<kernels::SamplingRow> rows(2, {{.temperature = 0}});
    kernels->sampler()->begin({.rows = rows});
    kernels->sampler()->draw(0, *logits);
    kernels->sampler()->send();
    BOOST_REQUIRE(kernels->memory().synchronize().ok());
    const auto drawn = kernels->sampler()->take();
    BOOST_REQUIRE_MESSAGE(drawn.ok(), why(drawn));
    BOOST_TEST(counts.synchronizations - waits_before == 1);
    BOOST_TEST(counts.uploads - uploads_before == 2);  // the step's lists, and how to draw
    next.assign(drawn->tokens.begin(), drawn->tokens.end());
    BOOST_TEST(*std::max_element(next.begin(), next.end()) < config.vocab_size);
  }
  BOOST_TEST(counts.replays > 0);
}

BOOST_AUTO_TEST_CASE(a_step_waits_for_the_device_once) {
  count_waits(small_config());
  count_waits(with_experts(small_config()));
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
      BOOST_TEST((level.used > 0u || level.arena == "workspaces"));
      BOOST_TEST(level.used <= level.peak);
      BOOST_TEST(level.used + level.largest_free <= level.capacity);
    }
    by_name[std::string(level.arena)] = level;
  }
  BOOST_REQUIRE(by_name.size() == 8u);
  BOOST_TEST(by_name["weights"].used == by_name["weights"].capacity);
  BOOST_TEST(by_name["kv"].used >= 4 * bytes_per_block(model.config, {0, 2, 2, 0, 1}, options.block_size));
  BOOST_TEST(by_name["device"].used - before ==
             by_name["weights"].capacity + by_name["kv"].capacity + by_name["scratch"].capacity);
  BOOST_TEST(by_name["workspaces"].used == before);
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
