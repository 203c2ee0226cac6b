#include <boost/json.hpp>
#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <iterator>

#include "runtime/model/config.h"
#include "runtime/model/safetensors.h"
#include "tests/runtime/model/fixtures.h"
#include "tests/runtime/model/thread_cluster.h"

// Float64 goldens of transformers, for every split of the models.
namespace troupe::model::testing {
namespace {

namespace json = boost::json;
namespace test = boost::unit_test;

constexpr double kTolerance = 1e-3;  // max abs difference to float64

struct Split {
  std::vector<std::uint32_t> cuts;
  std::uint32_t world_size;
};

const std::vector<Split> kSplits = {{{}, 1}, {{}, 2}, {{2}, 1}, {{1}, 2}, {{1, 2, 3}, 2}};

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

BOOST_TEST_DECORATOR(*test::precondition(HasFixtures()))
BOOST_DATA_TEST_CASE(logits_and_greedy_tokens_are_those_of_transformers_in_every_split,
                     test::data::make({"llama", "llama3-rope", "mistral", "qwen2", "qwen2-sliding", "qwen3"}) *
                         test::data::make({"reference", ""}),
                     model, implementation) {
  const auto directory = fixtures() / "golden" / model;
  const auto config = load_config(directory);
  BOOST_REQUIRE_MESSAGE(config.ok(), config.error().message);
  const auto golden = SafetensorsFile::open(directory / "golden.safetensors");
  BOOST_REQUIRE_MESSAGE(golden.ok(), golden.error().message);
  for (const Split& split : kSplits) {
    BOOST_TEST_CONTEXT(split.cuts.size() + 1 << " stages of " << split.world_size << " ranks") {
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

BOOST_TEST_DECORATOR(*test::precondition(HasFixtures()))
BOOST_DATA_TEST_CASE(stories260K_answers_as_its_float64_reference, test::data::make({"hf-f32", "hf-bf16"}),
                     checkpoint) {
  const auto directory = fixtures() / "stories260K" / checkpoint;
  const auto config = load_config(directory);
  BOOST_REQUIRE_MESSAGE(config.ok(), config.error().message);
  std::ifstream file(fixtures() / "stories260K" / "reference_logits_f64.fixture.json");
  const json::value reference = json::parse(std::string(std::istreambuf_iterator<char>(file), {}));
  for (const Split& split : {Split{{}, 1}, Split{{}, 2}, Split{{4}, 1}, Split{{2}, 2}}) {
    auto options = options_for(split, "");
    ThreadCluster cluster(directory, *config, options);
    for (const json::value& item : reference.at("cases").as_array()) {
      const auto prompt = json::value_to<std::vector<std::uint32_t>>(item.at("prompt_ids"));
      const auto golden = json::value_to<std::vector<double>>(item.at("last_prompt_logits"));
      const auto expected = json::value_to<std::vector<std::uint32_t>>(item.at("greedy_ids"));
      TestSequence sequence{prompt, 0, {}};
      const auto rows = cluster.prefill(sequence);
      cluster.release(sequence);
      const auto answer = cluster.greedy(prompt, expected.size());
      // The reference was computed on the F32 weights; the BF16 ones are another model.
      if (std::string(checkpoint) == "hf-bf16") {
        BOOST_TEST(std::equal(answer.begin(), answer.begin() + 8, expected.begin()));
        continue;
      }
      BOOST_TEST(largest_difference({rows.back()}, golden) < kTolerance);
      BOOST_TEST(answer == expected, boost::test_tools::per_element());
    }
  }
}

}  // namespace
}  // namespace troupe::model::testing
