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

BOOST_AUTO_TEST_CASE(each_head_is_normed_by_itself) {
  Random random(2);
  for (const std::size_t head_dim : {1, 8, 20, 64, 128}) {
    const std::size_t rows = random.pick(1, 9);
    const std::size_t cols = head_dim * random.pick(1, 6);
    const Strided in(rows, cols, 1, random);
    const auto weight = random.normals(head_dim);
    compare(in, rows, cols, 3e-6, 0,
            [&](Kernels& kernels, std::size_t, MatrixF32 matrix) { kernels.rms_norm_heads(matrix, weight, 1e-5f); });
  }
}

BOOST_AUTO_TEST_CASE(rope_turns_pairs_by_position_times_frequency) {
  Random random(3);
  for (const RopeLayout layout : {RopeLayout::kHalves, RopeLayout::kInterleaved}) {
    for (const std::size_t head_dim : {2, 8, 20, 33, 64, 128}) {
      const std::size_t pairs = random.pick(1, head_dim / 2);
      const std::size_t rows = random.pick(1, 9);
      const std::size_t cols = head_dim * random.pick(1, 5);
      std::vector<std::uint32_t> positions(rows);
      for (auto& position : positions) position = static_cast<std::uint32_t>(random.pick(0, 200'000));
      std::vector<float> frequencies(pairs);
      for (std::size_t i = 0; i < pairs; ++i) frequencies[i] = std::pow(1e4f, -float(i) / float(pairs));
      compare(Strided(rows, cols, 2, random), rows, cols, 0, 3e-6,
              [&](Kernels& kernels, std::size_t first, MatrixF32 matrix) {
                kernels.rope(matrix, head_dim, std::span(positions).subspan(first, matrix.rows), frequencies, 1.2f,
                             layout);
              });
    }
  }
}

BOOST_AUTO_TEST_CASE(rope_pairs_halves_or_neighbours_and_leaves_the_rest_of_the_head) {
  const float quarter_turn = 3.14159265f / 2;
  const std::uint32_t position = 1;
  auto names = vector_implementations();
  names.push_back("reference");
  for (const auto& name : names) {
    const std::vector<float> frequencies(2, quarter_turn);
    std::vector<float> halves = {1, 2, 3, 4, 5};
    make(name)->rope({halves.data(), 1, 5}, 5, {&position, 1}, frequencies, 1, RopeLayout::kHalves);
    std::vector<float> neighbours = {1, 2, 3, 4, 5};
    make(name)->rope({neighbours.data(), 1, 5}, 5, {&position, 1}, frequencies, 1, RopeLayout::kInterleaved);
    const float expected_halves[] = {-3, -4, 1, 2, 5};
    const float expected_neighbours[] = {-2, 1, -4, 3, 5};
    for (int i = 0; i < 5; ++i) {
      BOOST_TEST(std::abs(halves[i] - expected_halves[i]) < 1e-6f);
      BOOST_TEST(std::abs(neighbours[i] - expected_neighbours[i]) < 1e-6f);
    }
  }
}

BOOST_AUTO_TEST_CASE(rope_follows_new_positions_frequencies_and_magnitudes) {
  Random random(4);
  for (const auto& name : vector_implementations()) {
    const auto kernels = make(name);
    const auto reference = make("reference");
    const Strided in(2, 16, 0, random);
    std::vector<std::uint32_t> positions = {3, 9};
    std::vector<float> frequencies = {1, 0.1f, 0.01f, 0.001f};
    float magnitude = 1;
    for (int change = 0; change < 6; ++change) {
      if (change == 1) positions[1] = 10;
      if (change == 2) frequencies[3] = 0.5f;
      if (change == 3) magnitude = 2;
      if (change == 4) frequencies.pop_back();
      if (change == 5) positions[0] = 4;
      Strided out = in;
      Strided expected = in;
      kernels->rope(out.view(), 8, positions, frequencies, magnitude, RopeLayout::kHalves);
      reference->rope(expected.view(), 8, positions, frequencies, magnitude, RopeLayout::kHalves);
      BOOST_TEST(largest_difference(out, expected, 2, 16) < 2e-6f);
    }
  }
}

BOOST_AUTO_TEST_CASE(silu_multiply_holds_from_the_smallest_to_the_largest_gate) {
  Random random(5);
  for (const std::size_t cols : {1, 15, 16, 17, 100, 5000}) {
    for (const float scale : {1.0f, 20.0f, 1e4f, 1e-20f}) {
      const std::size_t rows = random.pick(1, 5);
      Strided up(rows, cols, 1, random);
      // Below -88 silu is smaller than 1e-36 in truth, and here.
      compare(Strided(rows, cols, 2, random, scale), rows, cols, 2e-6, 1e-33,
              [&](Kernels& kernels, std::size_t first, MatrixF32 matrix) {
                kernels.silu_multiply(matrix, up.view().rows_from(first, matrix.rows), matrix);
              });
    }
  }
}

BOOST_AUTO_TEST_CASE(a_nan_stays_visible) {
  for (const auto& name : vector_implementations()) {
    std::vector<float> gate(20, 1.0f);
    gate[3] = gate[18] = NAN;
    const std::vector<float> up(20, 1.0f);
    make(name)->silu_multiply({gate.data(), 1, 20}, {up.data(), 1, 20}, {gate.data(), 1, 20});
    for (std::size_t i = 0; i < gate.size(); ++i) BOOST_TEST(std::isnan(gate[i]) == (i == 3 || i == 18));
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
      make(name)->embed(tokens, table.view(), 100, out.view());
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

BOOST_AUTO_TEST_SUITE_END()
