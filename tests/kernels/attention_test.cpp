#include <boost/test/unit_test.hpp>

#include "tests/kernels/attention_scene.h"

using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(attention)

static void compare_with_dense(const std::string& name, float tolerance, float scale_of_queries) {
  for (std::uint32_t seed = 0; seed < 42; ++seed) {
    Scene scene(seed, kPageTypes[seed % std::size(kPageTypes)], scale_of_queries);
    const Strided expected = dense_attention(scene);
    const auto kernels = make(name, seed % 2 == 0 ? 1 : 3);
    const Strided out = scene.attend(*kernels);
    BOOST_TEST_CONTEXT(name << " seed " << seed << " head_dim " << scene.shape.head_dim) {
      BOOST_REQUIRE_LE(largest_difference(out, expected, scene.rows(), scene.queries->view().cols), tolerance);
      BOOST_REQUIRE(out.gaps_untouched());
    }
  }
}

BOOST_AUTO_TEST_CASE(the_reference_agrees_with_a_dense_softmax) {
  compare_with_dense("reference", 1e-6f, 1);
  compare_with_dense("reference", 1e-6f, 30);
}

BOOST_AUTO_TEST_CASE(vectors_agree_with_a_dense_softmax) {
  for (const auto& name : vector_implementations()) compare_with_dense(name, 5e-6f, 1);
}

// Scores of some hundred: all the weight lies on one or two positions, and the running maximum jumps.
BOOST_AUTO_TEST_CASE(steep_scores_neither_overflow_nor_vanish) {
  for (const auto& name : vector_implementations()) compare_with_dense(name, 3e-4f, 100);
}

BOOST_AUTO_TEST_CASE(a_row_has_the_same_bits_alone_in_a_batch_and_with_any_number_of_threads) {
  for (const auto& name : vector_implementations()) {
    const auto one = make(name);
    const auto three = make(name, 3);
    for (std::uint32_t seed = 100; seed < 115; ++seed) {
      Scene scene(seed, kPageTypes[seed % std::size(kPageTypes)]);
      const Strided together = scene.attend(*one);
      const Strided threaded = scene.attend(*three);
      for (std::size_t sequence = 0; sequence < scene.context_lengths.size(); ++sequence) {
        const std::uint32_t end_row = scene.row_starts[sequence + 1];
        for (std::uint32_t row = scene.row_starts[sequence]; row < end_row; ++row) {
          const std::uint32_t one_row[] = {0, 1};
          const std::uint32_t context = scene.context_lengths[sequence] - (end_row - 1 - row);
          const AttentionBatch batch{
              one_row, {&context, 1}, scene.block_tables, std::span(scene.block_table_starts).subspan(sequence, 2)};
          std::vector<float> alone(together.row(row).size());
          one->begin_step({.attention = batch, .shapes = {&scene.shape, 1}});
          one->attention(scene.queries->view().rows_from(row, 1), scene.kv, 0, {alone.data(), 1, alone.size()});
          BOOST_REQUIRE(alone == together.row(row));
          BOOST_REQUIRE(alone == threaded.row(row));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
