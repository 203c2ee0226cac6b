#include "runtime/model/transformer.h"

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <limits>
#include <thread>

#include "kernels/cpu/reference.h"
#include "kernels/select.h"
#include "runtime/collective/in_process.h"
#include "runtime/collective/solo.h"
#include "tests/runtime/model/double_forward.h"
#include "tests/runtime/model/thread_cluster.h"
#include "tests/runtime/model/tiny_model.h"

namespace troupe::model::testing {
namespace {

// Shapes on purpose odd: heads * head_dim is not hidden_size, nothing is a multiple of anything.
ModelConfig small_config() {
  ModelConfig config;
  config.model_type = "llama";
  config.vocab_size = 61;
  config.hidden_size = 20;
  config.intermediate_size = 37;
  config.num_layers = 3;
  config.num_heads = 6;
  config.num_kv_heads = 3;
  config.head_dim = 10;
  config.max_position_embeddings = 256;
  config.sliding_windows = {0, 0, 0};
  return config;
}

struct TestModel {
  explicit TestModel(const ModelConfig& config, kernels::DType dtype = kernels::DType::kF32, std::size_t files = 1)
      : config(config), dtype(dtype), tensors(random_tensors(config, 1, dtype)) {
    write_model(directory.path(), tensors, dtype, files);
  }

  ModelConfig config;
  kernels::DType dtype;
  TinyTensors tensors;
  TemporaryDirectory directory;
};

std::vector<std::uint32_t> some_tokens(std::size_t count, std::uint32_t seed, std::uint32_t vocab_size) {
  std::mt19937 random(seed);
  std::vector<std::uint32_t> tokens(count);
  for (auto& token : tokens) token = random() % vocab_size;
  return tokens;
}

double largest_difference(const std::vector<std::vector<float>>& rows,
                          const std::vector<std::vector<double>>& expected) {
  BOOST_REQUIRE(rows.size() == expected.size());
  double largest = 0;
  for (std::size_t row = 0; row < rows.size(); ++row) {
    BOOST_REQUIRE(rows[row].size() == expected[row].size());
    for (std::size_t col = 0; col < rows[row].size(); ++col) {
      largest = std::max(largest, std::abs(rows[row][col] - expected[row][col]));
    }
  }
  return largest;
}

// In every split that the shape allows, for the reference, on the host and on a device of its own, and for the
// machine's best kernels.
void check_every_split(const TestModel& model) {
  const auto tokens = some_tokens(23, 5, model.config.vocab_size);
  const auto expected = double_forward(model.config, model.tensors, tokens);
  for (const std::string implementation : {"reference", "guarded", "avx512", ""}) {
    if (implementation != "guarded" &&
        !kernels::select_cpu_implementation(kernels::detect_cpu_features(), implementation).ok()) {
      continue;
    }
    for (const std::vector<std::uint32_t>& cuts : {std::vector<std::uint32_t>{}, {1}, {2}, {1, 2}}) {
      for (std::uint32_t world_size = 1; world_size <= 4; ++world_size) {
        if (!check_slice(model.config, {0, model.config.num_layers, model.config.num_layers, 0, world_size})) continue;
        BOOST_TEST_CONTEXT(cuts.size() + 1 << " stages of " << world_size << " ranks, '" << implementation << "'") {
          ThreadCluster::Options options;
          options.cuts = cuts;
          options.world_size = world_size;
          options.implementation = implementation;
          ThreadCluster cluster(model.directory.path(), model.config, options);
          TestSequence sequence{tokens, 0, {}};
          // AMX multiplies BF16 weights with activations of 16 bits.
          const bool is_narrow = implementation.empty() && model.dtype == kernels::DType::kBF16;
          BOOST_TEST(largest_difference(cluster.prefill(sequence), expected) < (is_narrow ? 1e-3 : 1e-4));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE(transformer)

BOOST_AUTO_TEST_CASE(a_model_of_odd_shapes_equals_the_formulas_in_every_split) {
  check_every_split(TestModel(small_config()));
}

BOOST_AUTO_TEST_CASE(one_kv_head_is_replicated_on_all_ranks) {
  ModelConfig config = small_config();
  config.num_heads = 4;
  config.num_kv_heads = 1;
  check_every_split(TestModel(config, kernels::DType::kBF16));
}

BOOST_AUTO_TEST_CASE(as_many_kv_heads_as_heads_divide_unevenly) {
  ModelConfig config = small_config();
  config.num_heads = 5;
  config.num_kv_heads = 5;
  config.tie_word_embeddings = true;
  check_every_split(TestModel(config, kernels::DType::kF16));
}

BOOST_AUTO_TEST_CASE(every_bias_enters_once) {
  ModelConfig config = small_config();
  config.qkv_bias = config.output_bias = config.mlp_bias = true;
  check_every_split(TestModel(config, kernels::DType::kF32, 3));
}

BOOST_AUTO_TEST_CASE(heads_are_normed_and_windows_slide_by_layer) {
  ModelConfig config = small_config();
  config.qk_norm = true;
  config.sliding_windows = {0, 5, 1};
  check_every_split(TestModel(config));
}

BOOST_AUTO_TEST_CASE(scaled_rotary_embedding_reaches_the_layers) {
  ModelConfig config = small_config();
  config.rope = {500.0, RopeScaling::kLlama3, 8.0, 1.0, 4.0, 32};
  check_every_split(TestModel(config));
}

BOOST_AUTO_TEST_CASE(a_prompt_in_pieces_gives_the_same_bits_as_a_whole_one) {
  const TestModel model(small_config());
  ThreadCluster::Options options;
  options.cuts = {1};
  options.world_size = 2;
  options.implementation = "";
  ThreadCluster cluster(model.directory.path(), model.config, options);
  const auto tokens = some_tokens(40, 3, model.config.vocab_size);
  TestSequence whole{tokens, 0, {}};
  const auto expected = cluster.prefill(whole);
  cluster.release(whole);
  for (const std::uint32_t chunk : {1u, 3u, 7u, 39u}) {
    TestSequence pieces{tokens, 0, {}};
    BOOST_TEST((cluster.prefill(pieces, chunk) == expected));
    cluster.release(pieces);
  }
}

BOOST_AUTO_TEST_CASE(wrong_guesses_leave_no_trace_in_the_pages_once_they_are_overwritten) {
  const TestModel model(small_config());
  for (const kernels::DType kv_dtype : {kernels::DType::kF32, kernels::DType::kI8}) {
    ThreadCluster::Options options;
    options.cuts = {1};
    options.implementation = "";
    options.transformer.kv_dtype = kv_dtype;
    ThreadCluster cluster(model.directory.path(), model.config, options);
    const auto tokens = some_tokens(24, 3, model.config.vocab_size);
    const auto guesses = some_tokens(24, 4, model.config.vocab_size);
    TestSequence plain{tokens, 0, {}};
    const auto expected = cluster.prefill(plain);
    for (const std::size_t known : {9, 12, 15}) {
      TestSequence sequence{{tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(known)}, 0, {}};
      sequence.tokens.insert(sequence.tokens.end(), guesses.begin(), guesses.begin() + 6);
      BOOST_TEST((cluster.prefill(sequence)[known - 1] == expected[known - 1]));
      sequence.tokens = tokens;
      sequence.computed = static_cast<std::uint32_t>(known);
      const auto after = cluster.prefill(sequence, 2);
      BOOST_TEST(std::equal(after.begin(), after.end(), expected.begin() + static_cast<std::ptrdiff_t>(known),
                            expected.end()));
      cluster.release(sequence);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_sequence_in_a_batch_gives_the_same_bits_as_alone) {
  const TestModel model(small_config());
  ThreadCluster::Options options;
  options.world_size = 2;
  options.implementation = "";
  ThreadCluster cluster(model.directory.path(), model.config, options);
  std::vector<TestSequence> sequences;
  std::vector<std::vector<float>> alone;
  for (const std::size_t length : {1u, 9u, 17u, 4u}) {
    sequences.push_back({some_tokens(length + 1, static_cast<std::uint32_t>(length), model.config.vocab_size), 0, {}});
  }
  for (TestSequence& sequence : sequences) {
    alone.push_back(cluster.prefill(sequence).back());
    cluster.release(sequence);
  }
  std::vector<StepPart> prompts;
  for (TestSequence& sequence : sequences) {
    prompts.push_back({&sequence, static_cast<std::uint32_t>(sequence.tokens.size()) - 1, false});
  }
  BOOST_TEST(cluster.step(prompts).size() == sequences.size());
  std::vector<StepPart> last_tokens;
  for (TestSequence& sequence : sequences) last_tokens.push_back({&sequence, 1, false});
  BOOST_TEST((cluster.step(last_tokens) == alone));
}

BOOST_AUTO_TEST_CASE(narrow_pages_stay_close_to_float32_ones) {
  const TestModel model(small_config());
  const auto tokens = some_tokens(23, 5, model.config.vocab_size);
  const auto expected = double_forward(model.config, model.tensors, tokens);
  // By the bits that are left of a number: 11, 8, 8 of a head's largest, 4.
  const std::pair<kernels::DType, double> limits[] = {{kernels::DType::kF16, 0.1},
                                                      {kernels::DType::kBF16, 0.1},
                                                      {kernels::DType::kI8, 0.2},
                                                      {kernels::DType::kE4M3, 0.6}};
  for (const auto& [dtype, limit] : limits) {
    ThreadCluster::Options options;
    options.transformer.kv_dtype = dtype;
    ThreadCluster cluster(model.directory.path(), model.config, options);
    TestSequence sequence{tokens, 0, {}};
    const double difference = largest_difference(cluster.prefill(sequence), expected);
    BOOST_TEST(difference > 1e-5);
    BOOST_TEST(difference < limit);
  }
}

BOOST_AUTO_TEST_CASE(what_other_shards_own_has_no_influence) {
  // Rank 0 of the first stage must give the same hidden states when everything it does not own is NaN.
  const ModelConfig config = small_config();
  const Slice slice{0, 2, 3, 1, 2};
  TestModel model(config);
  TestModel poisoned(config);
  std::map<std::string, TensorSlice> owned;
  for (const TensorSlice& tensor : tensor_slices(config, slice)) owned.emplace(tensor.name, tensor);
  for (auto& [name, tensor] : poisoned.tensors) {
    const auto slice_of = owned.find(name);
    const std::uint64_t cols = tensor.shape.back();
    for (std::uint64_t i = 0; i < tensor.values.size(); ++i) {
      const auto inside = [](const Range& range, std::uint64_t at) { return at >= range.first && at < range.last; };
      if (slice_of == owned.end() || !inside(slice_of->second.row_range, i / cols) ||
          !inside(slice_of->second.col_range, i % cols)) {
        tensor.values[i] = std::numeric_limits<float>::quiet_NaN();
      }
    }
  }
  write_model(poisoned.directory.path(), poisoned.tensors, kernels::DType::kF32);

  const std::vector<std::uint32_t> tokens{40, 41, 60}, positions{0, 1, 2}, row_starts{0, 3}, lengths{3}, table{5},
      table_starts{0, 1}, slots{20, 21, 22};
  const StepBatch batch{tokens, positions, slots, {row_starts, lengths, table, table_starts}, {}};
  std::vector<std::vector<float>> results;
  for (const TestModel* source : {&model, &poisoned}) {
    // The group's other rank adds nothing: zeros.
    auto group = collective::make_in_process_group(2);
    auto kernels = kernels::make_reference_kernels();
    auto loaded = Transformer::load(source->directory.path(), config, slice, *kernels, *group[1],
                                    {.num_blocks = 8, .block_size = 4, .max_batch_tokens = 4});
    BOOST_REQUIRE_MESSAGE(loaded.ok(), why(loaded));
    std::thread other([&] {
      for (std::uint32_t call = 0; call < 1 + 2 * slice.layer_count(); ++call) {
        std::vector<float> zeros(tokens.size() * config.hidden_size, 0.0f);
        if (!group[0]->all_reduce(zeros).ok()) return;
      }
    });
    const auto hidden = (*loaded)->forward(batch, {});
    other.join();
    BOOST_REQUIRE_MESSAGE(hidden.ok(), why(hidden));
    results.emplace_back(hidden->data, hidden->data + hidden->rows * hidden->cols);
    BOOST_TEST((*loaded)->checkpoint_bytes_read() == weight_bytes(config, slice));
    BOOST_TEST((*loaded)->collective_ns() > 0u);
  }
  BOOST_TEST((results[0] == results[1]));
  BOOST_TEST(std::isfinite(results[0][0]));
}

BOOST_AUTO_TEST_CASE(a_step_takes_no_memory_from_the_system) {
  const TestModel model(small_config());
  ThreadCluster cluster(model.directory.path(), model.config, {});
  TestSequence sequence{some_tokens(30, 2, model.config.vocab_size), 0, {}};
  const std::uint64_t before = Arena::system_allocations();
  BOOST_TEST(before > 0u);
  cluster.prefill(sequence, 4);
  BOOST_TEST(Arena::system_allocations() == before);
}

BOOST_AUTO_TEST_CASE(a_new_group_serves_after_the_old_one_was_aborted) {
  const TestModel model(small_config());
  ThreadCluster::Options options;
  options.world_size = 2;
  ThreadCluster cluster(model.directory.path(), model.config, options);
  TestSequence sequence{some_tokens(5, 2, model.config.vocab_size), 0, {}};
  const auto expected = cluster.prefill(sequence);
  cluster.release(sequence);
  cluster.replace_groups("a member was lost");
  TestSequence again{sequence.tokens, 0, {}};
  BOOST_TEST((cluster.prefill(again) == expected));
}

BOOST_AUTO_TEST_CASE(an_aborted_group_is_an_error_of_the_step) {
  const TestModel model(small_config());
  auto group = collective::make_in_process_group(2);
  auto kernels = kernels::make_reference_kernels();
  auto loaded = Transformer::load(model.directory.path(), model.config, {0, 3, 3, 0, 2}, *kernels, *group[0],
                                  {.num_blocks = 8, .block_size = 4});
  BOOST_REQUIRE_MESSAGE(loaded.ok(), why(loaded));
  group[0]->abort("the other rank is gone");
  const std::vector<std::uint32_t> zero{0}, ends{0, 1}, one{1};
  const auto result = (*loaded)->forward({zero, zero, zero, {ends, one, zero, ends}, {}}, {});
  BOOST_REQUIRE(!result.ok());
  BOOST_TEST((result.error().code == ErrorCode::kCancelled));
}

BOOST_AUTO_TEST_CASE(wrong_hidden_states_and_too_many_logits_rows_are_refused) {
  const TestModel model(small_config());
  auto solo = collective::make_solo_communicator();
  auto kernels = kernels::make_reference_kernels();
  auto loaded = Transformer::load(model.directory.path(), model.config, {1, 3, 3, 0, 1}, *kernels, *solo,
                                  {.num_blocks = 8, .block_size = 4, .max_batch_sequences = 1});
  BOOST_REQUIRE_MESSAGE(loaded.ok(), why(loaded));
  const std::vector<std::uint32_t> tokens{0, 0}, positions{0, 1}, starts{0, 2}, length{2}, table{0}, table_starts{0, 1};
  const StepBatch batch{tokens, positions, positions, {starts, length, table, table_starts}, positions};
  std::vector<float> memory(2 * model.config.hidden_size, 0.5f);
  const kernels::ConstMatrixF32 narrow(memory.data(), 2, model.config.hidden_size - 1);
  BOOST_TEST(!(*loaded)->forward(batch, narrow).ok());
  const auto hidden = (*loaded)->forward(batch, {memory.data(), 2, model.config.hidden_size});
  BOOST_REQUIRE_MESSAGE(hidden.ok(), why(hidden));
  const auto logits = (*loaded)->logits(*hidden, 0, 2);
  BOOST_REQUIRE(!logits.ok());
  BOOST_TEST(logits.error().param == "logits_rows");
}

BOOST_AUTO_TEST_CASE(progress_ends_at_the_total) {
  const TestModel model(small_config());
  auto solo = collective::make_solo_communicator();
  auto kernels = kernels::make_reference_kernels();
  std::uint64_t last = 0, total = 0;
  const auto loaded = Transformer::load(model.directory.path(), model.config, {0, 1, 3, 0, 1}, *kernels, *solo,
                                        {.num_blocks = 1}, [&](std::uint64_t bytes_read, std::uint64_t bytes_total) {
                                          BOOST_TEST(bytes_read > last);
                                          last = bytes_read;
                                          total = bytes_total;
                                        });
  BOOST_REQUIRE_MESSAGE(loaded.ok(), why(loaded));
  BOOST_TEST(last == total);
  BOOST_TEST(total == weight_bytes(model.config, {0, 1, 3, 0, 1}));
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model::testing
