#include <boost/test/unit_test.hpp>
#include <cmath>
#include <functional>

#include "tests/kernels/implementations.h"

using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(elementwise)

// Runs `operation` with the reference, with every vector implementation, and with three threads; requires results
// within `relative` of the reference (plus `absolute`), and the very same bits for each row alone and for any number
// of threads. operation(kernels, first row, matrix) works in place on rows [first row, first row + matrix.rows).
using Operation = std::function<void(Kernels&, std::size_t, MatrixF32)>;

static void compare(const Strided& in, std::size_t rows, std::size_t cols, double relative, double absolute,
                    const Operation& operation) {
  Strided expected = in;
  operation(*make("reference"), 0, expected.view());
  for (const auto& name : vector_implementations()) {
    Strided out = in;
    operation(*make(name), 0, out.view());
    Strided threaded = in;
    operation(*make(name, 3), 0, threaded.view());
    BOOST_TEST_CONTEXT(name << " (" << rows << ", " << cols << ")") {
      BOOST_REQUIRE(out.gaps_untouched());
      for (std::size_t row = 0; row < rows; ++row) {
        Strided alone = in;
        operation(*make(name), row, alone.view().rows_from(row, 1));
        BOOST_REQUIRE(alone.row(row) == out.row(row));
        BOOST_REQUIRE(threaded.row(row) == out.row(row));
        for (std::size_t col = 0; col < cols; ++col) {
          const double difference = std::abs(double{out.at(row, col)} - expected.at(row, col));
          BOOST_REQUIRE_LE(difference, relative * std::abs(expected.at(row, col)) + absolute);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(rms_norm_gives_every_row_a_mean_square_of_one) {
  Random random(1);
  for (const std::size_t cols : {1, 7, 16, 33, 64, 100, 576, 2049}) {
    for (const float scale : {1.0f, 1e15f, 1e-3f}) {
      const std::size_t rows = random.pick(1, 9);
      const Strided in(rows, cols, 3, random, scale);
      const auto weight = random.normals(cols);
      compare(in, rows, cols, 3e-6, 0, [&](Kernels& kernels, std::size_t, MatrixF32 matrix) {
        kernels.rms_norm(matrix, weight, 1e-6f, matrix);
      });
    }
  }
  Strided row(1, 4, 0);
  for (int i = 0; i < 4; ++i) row.view().row(0)[i] = i % 2 == 0 ? 3.0f : -3.0f;
  const std::vector<float> weight = {1, 1, 2, 2};
  make("reference")->rms_norm(row.view(), weight, 0, row.view());
  BOOST_TEST(row.row(0) == (std::vector<float>{1, -1, 2, -2}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(adding_and_norming_together_gives_what_one_after_the_other_does) {
  Random random(2);
  for (const std::size_t cols : {1, 17, 64, 900}) {
    const std::size_t rows = random.pick(1, 9);
    Strided addend(rows, cols, 1, random);
    const auto weight = random.normals(cols);
    const Strided in(rows, cols, 2, random);
    for (const auto& name : vector_implementations()) {
      const auto kernels = make(name, 2);
      Strided sum = in;
      Strided expected_sum = in;
      Strided out(rows, cols, 3);
      Strided expected(rows, cols, 0);
      kernels->add_rms_norm(addend.view(), sum.view(), weight, 1e-5f, out.view());
      kernels->add(addend.view(), expected_sum.view());
      kernels->rms_norm(expected_sum.view(), weight, 1e-5f, expected.view());
      BOOST_REQUIRE(largest_difference(sum, expected_sum, rows, cols) == 0);
      BOOST_REQUIRE(largest_difference(out, expected, rows, cols) == 0);
      BOOST_REQUIRE(sum.gaps_untouched() && out.gaps_untouched());
    }
  }
}

BOOST_AUTO_TEST_CASE(add_is_exact) {
  Random random(6);
  for (const std::size_t cols : {1, 16, 31, 40'000}) {
    Strided addend(3, cols, 1, random);
    compare(Strided(3, cols, 2, random), 3, cols, 0, 0, [&](Kernels& kernels, std::size_t first, MatrixF32 matrix) {
      kernels.add(addend.view().rows_from(first, matrix.rows), matrix);
    });
  }
}

BOOST_AUTO_TEST_CASE(a_token_outside_this_part_of_the_vocabulary_embeds_as_zeros) {
  Random random(7);
  auto names = vector_implementations();
  names.push_back("reference");
  for (const auto& name : names) {
    for (const DType dtype : kStorageTypes) {
      const Stored table(dtype, 10, 37, 2, random);
      const std::vector<std::uint32_t> tokens = {100, 109, 99, 110, 104, 0, 4'000'000'000};
      Strided out(tokens.size(), 37, 1);
      const auto kernels = make(name);
      kernels->begin_step({.tokens = tokens});
      kernels->embed(table.view(), 100, out.view());
      BOOST_REQUIRE(out.gaps_untouched());
      for (std::size_t row = 0; row < tokens.size(); ++row) {
        const bool held = tokens[row] >= 100 && tokens[row] < 110;
        for (std::size_t col = 0; col < 37; ++col) {
          BOOST_REQUIRE_EQUAL(out.at(row, col), held ? table.at(tokens[row] - 100, col) : 0.0f);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(rows_for_logits_are_gathered_from_the_first_one_asked_for) {
  const auto kernels = make("reference");
  const float in[] = {1, 2, 3, 4, 5, 6};
  const std::vector<std::uint32_t> rows{1, 2, 0};
  std::vector<float> gathered(4);
  kernels->begin_step({.logits_rows = rows});
  kernels->gather_logits_rows({in, 3, 2}, 1, {gathered.data(), 2, 2});
  BOOST_TEST(gathered == std::vector<float>({5, 6, 1, 2}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(rows_are_scaled_by_the_sigmoid_of_a_product) {
  const auto kernels = make("reference");
  const float in[] = {1, 2, 0, 0};
  const std::vector<float> weight{0.5f, 0.25f};
  float out[] = {2, 4, 6, 8, 10, 12};
  kernels->scale_by_sigmoid({in, 2, 2}, weight, {out, 2, 3});
  BOOST_TEST(out[1] == 4 * static_cast<float>(1 / (1 + std::exp(-1.0))));
  BOOST_TEST(out[5] == 6.0f);
}

BOOST_AUTO_TEST_SUITE_END()
