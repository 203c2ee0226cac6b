#include <algorithm>
#include <boost/json.hpp>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>

#include "kernels/select.h"
#include "runtime/model/config.h"
#include "runtime/model/safetensors.h"
#include "tests/runtime/model/fixtures.h"
#include "tests/runtime/model/thread_cluster.h"
#include "tests/runtime/model/tiny_model.h"

// Float64 goldens of transformers, for every split of the models.
namespace troupe::model::testing {
namespace {

namespace json = boost::json;
namespace test = boost::unit_test;

constexpr double kTolerance = 1e-3;  // max abs difference to float64

struct Split {
  std::vector<std::uint32_t> cuts;
  std::uint32_t world_size;
  std::uint32_t expert_shards = 0;  // of each stage that has layers with experts
};

const std::vector<Split> kSplits = {{{}, 1}, {{}, 2}, {{2}, 1}, {{1}, 2}, {{1, 2, 3}, 2}};
const std::vector<Split> kExpertSplits = {{{}, 1, 1}, {{}, 1, 3}, {{2}, 1, 2}, {{}, 2, 1}, {{1}, 2, 4}};

template <class T>
std::vector<T> values(const SafetensorsFile& file, const std::string& name) {
  const StoredTensor* tensor = file.find(name);
  BOOST_REQUIRE_MESSAGE(tensor != nullptr, name);
  const auto bytes = file.bytes(*tensor);
  std::vector<T> out(bytes.size() / sizeof(T));
  std::memcpy(out.data(), bytes.data(), bytes.size());
  return out;
}

std::vector<std::uint32_t> ids(const std::vector<std::int64_t>& values) { return {values.begin(), values.end()}; }

ThreadCluster::Options options_for(const Split& split, const std::string& implementation) {
  ThreadCluster::Options options;
  options.cuts = split.cuts;
  options.world_size = split.world_size;
  options.expert_shards = split.expert_shards;
  options.implementation = implementation;
  options.transformer.num_blocks = 128;
  return options;
}

double largest_difference(const std::vector<std::vector<float>>& rows, const std::vector<double>& golden) {
  double largest = 0;
  std::size_t index = 0;
  for (const auto& row : rows) {
    for (const float value : row) largest = std::max(largest, std::abs(value - golden.at(index++)));
  }
  BOOST_TEST(index == golden.size());
  return largest;
}

// The implementations that this machine can run, and a device whose memory the host cannot touch.
std::vector<std::string> implementations() {
  std::vector<std::string> names = {"guarded"};
  for (const char* name : {"reference", "avx2", "avx512", "amx"}) {
    if (kernels::select_cpu_implementation(kernels::detect_cpu_features(), name).ok()) names.push_back(name);
  }
  return names;
}

// Logits of whole prompts and greedy continuations, with every kind of kernels.
void check_golden_model(const std::string& model, const std::vector<Split>& splits = kSplits) {
  const auto directory = fixtures() / "golden" / model;
  const auto config = load_config(directory);
  BOOST_REQUIRE_MESSAGE(config.ok(), why(config));
  const auto golden = SafetensorsFile::open(directory / "golden.safetensors");
  BOOST_REQUIRE_MESSAGE(golden.ok(), why(golden));
  for (const std::string& implementation : implementations()) {
    for (const Split& split : splits) {
      BOOST_TEST_CONTEXT(split.cuts.size() + 1 << " stages of " << split.world_size << " ranks and "
                                               << split.expert_shards << " expert shards, '" << implementation << "'") {
        ThreadCluster cluster(directory, *config, options_for(split, implementation));
        for (const std::string prompt : {"p0", "p1"}) {
          const auto input = ids(values<std::int64_t>(**golden, prompt + ".input_ids"));
          const auto expected = ids(values<std::int64_t>(**golden, prompt + ".greedy_f64"));
          TestSequence sequence{input, 0, {}};
          const auto rows = cluster.prefill(sequence);
          cluster.release(sequence);
          BOOST_TEST(largest_difference(rows, values<double>(**golden, prompt + ".logits_f64")) < kTolerance);
          BOOST_TEST(cluster.greedy(input, expected.size()) == expected, boost::test_tools::per_element());
        }
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE(golden, *test::precondition(&has_fixtures))

BOOST_AUTO_TEST_CASE(llama_computes_what_transformers_computes) { check_golden_model("llama"); }
BOOST_AUTO_TEST_CASE(llama3_rope_computes_what_transformers_computes) { check_golden_model("llama3-rope"); }
BOOST_AUTO_TEST_CASE(mistral_computes_what_transformers_computes) { check_golden_model("mistral"); }
BOOST_AUTO_TEST_CASE(qwen2_computes_what_transformers_computes) { check_golden_model("qwen2"); }
BOOST_AUTO_TEST_CASE(qwen2_sliding_computes_what_transformers_computes) { check_golden_model("qwen2-sliding"); }
BOOST_AUTO_TEST_CASE(mixtral_computes_what_transformers_computes) { check_golden_model("mixtral"); }
BOOST_AUTO_TEST_CASE(qwen2_moe_computes_what_transformers_computes) { check_golden_model("qwen2_moe"); }
BOOST_AUTO_TEST_CASE(qwen3_moe_computes_what_transformers_computes) { check_golden_model("qwen3_moe"); }
BOOST_AUTO_TEST_CASE(expert_shards_compute_what_transformers_computes) {
  for (const char* model : {"mixtral", "qwen2_moe", "qwen3_moe"}) check_golden_model(model, kExpertSplits);
}
BOOST_AUTO_TEST_CASE(qwen3_computes_what_transformers_computes) { check_golden_model("qwen3"); }

// The reference was computed on the F32 weights. Rounding them to BF16 moves logits by up to `tolerance`, so that
// the greedy tokens have to agree up to the first choice that was closer than both logits may move.
void check_stories(const std::string& checkpoint, double tolerance, const std::string& implementation = "") {
  const auto model = fixtures() / "stories260K" / checkpoint;
  const auto config = load_config(model);
  BOOST_REQUIRE_MESSAGE(config.ok(), why(config));
  std::ifstream file(fixtures() / "stories260K" / "reference_logits_f64.fixture.json");
  const json::value reference = json::parse(std::string(std::istreambuf_iterator<char>(file), {}));
  for (const Split& split : {Split{{}, 1}, Split{{}, 2}, Split{{4}, 1}, Split{{2}, 2}}) {
    ThreadCluster cluster(model, *config, options_for(split, implementation));
    for (const json::value& item : reference.at("cases").as_array()) {
      const auto prompt = json::value_to<std::vector<std::uint32_t>>(item.at("prompt_ids"));
      const auto golden = json::value_to<std::vector<double>>(item.at("last_prompt_logits"));
      const auto margins = json::value_to<std::vector<double>>(item.at("top2_margins"));
      auto expected = json::value_to<std::vector<std::uint32_t>>(item.at("greedy_ids"));
      const auto close = std::find_if(margins.begin(), margins.end(), [&](double m) { return m < 2 * tolerance; });
      expected.resize(static_cast<std::size_t>(close - margins.begin()));
      BOOST_TEST(expected.size() >= 10u);
      TestSequence sequence{prompt, 0, {}};
      const auto rows = cluster.prefill(sequence);
      cluster.release(sequence);
      BOOST_TEST(largest_difference({rows.back()}, golden) < tolerance);
      BOOST_TEST(cluster.greedy(prompt, expected.size()) == expected, boost::test_tools::per_element());
    }
  }
}

BOOST_AUTO_TEST_CASE(stories260k_answers_as_its_float64_reference) { check_stories("hf-f32", kTolerance); }
BOOST_AUTO_TEST_CASE(stories260k_from_gguf_answers_as_its_float64_reference) {
  check_stories("stories260K.gguf", kTolerance);
}
BOOST_AUTO_TEST_CASE(stories260k_in_bf16_stays_close_to_its_float64_reference) { check_stories("hf-bf16", 0.1); }
BOOST_AUTO_TEST_CASE(stories260k_in_bf16_with_rounded_inputs_stays_close_to_its_float64_reference) {
  if (!kernels::select_cpu_implementation(kernels::detect_cpu_features(), "avx512_bf16").ok()) return;
  check_stories("hf-bf16", 0.1, "avx512_bf16");
}

// Activations and weights are rounded to BF16 for each product.
BOOST_AUTO_TEST_CASE(stories260k_on_a_gpu_stays_close_to_its_float64_reference) { check_stories("hf-f32", 0.1, "gpu"); }

// Its table and its weights are quantised, or floats, by the file.
BOOST_AUTO_TEST_CASE(stories260k_from_gguf_on_a_gpu_stays_close_to_its_float64_reference) {
  check_stories("stories260K.gguf", 0.1, "gpu");
}

// Experts are chosen by logits that are rounded on the way: a model is near its golden, not at it.
BOOST_AUTO_TEST_CASE(experts_on_a_gpu_stay_close_to_what_transformers_computes) {
  for (const std::string model : {"mixtral", "qwen2_moe", "qwen3_moe"}) {
    const auto directory = fixtures() / "golden" / model;
    const auto config = load_config(directory);
    BOOST_REQUIRE_MESSAGE(config.ok(), why(config));
    const auto golden = SafetensorsFile::open(directory / "golden.safetensors");
    BOOST_REQUIRE_MESSAGE(golden.ok(), why(golden));
    const auto logits = values<double>(**golden, "p0.logits_f64");
    const double largest = std::abs(
        *std::max_element(logits.begin(), logits.end(), [](double a, double b) { return std::abs(a) < std::abs(b); }));
    for (const Split& split : {Split{{}, 1}, Split{{1}, 2}, Split{{}, 1, 2}, Split{{1}, 2, 3}}) {
      BOOST_TEST_CONTEXT(model << " in " << split.cuts.size() + 1 << " stages of " << split.world_size << " ranks and "
                               << split.expert_shards << " expert shards") {
        ThreadCluster cluster(directory, *config, options_for(split, "gpu"));
        TestSequence sequence{ids(values<std::int64_t>(**golden, "p0.input_ids")), 0, {}};
        BOOST_TEST(largest_difference(cluster.prefill(sequence), logits) < 0.05 * largest);
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::model::testing
