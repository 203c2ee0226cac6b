#include <boost/test/unit_test.hpp>
#include <cmath>

#include "tests/kernels/implementations.h"

using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(linear)

BOOST_AUTO_TEST_CASE(the_reference_multiplies_a_small_matrix_as_by_hand) {
  const float weight[] = {1, 2, 3, -1, 0.5f, 4};  // (2, 3)
  const float in[] = {1, 10, 100};
  const float bias[] = {0.25f, -1};
  float out[2];
  const auto reference = make("reference");
  const auto packed = reference->pack({weight, DType::kF32, 2, 3, 3}).value();
  reference->linear({in, 1, 3}, {packed.get(), bias}, {out, 1, 2});
  BOOST_TEST(out[0] == 321.25f);
  BOOST_TEST(out[1] == 403.0f);
}

BOOST_AUTO_TEST_CASE(every_shape_agrees_with_the_reference_within_the_rounding_of_its_sums) {
  Random random(1);
  const auto reference = make("reference");
  for (int round = 0; round < 120; ++round) {
    // Depths around the block of 256 and sizes around a panel, each now and then.
    const std::size_t rows = random.pick(1, round % 10 == 0 ? 110 : 14);
    const std::size_t cols = random.pick(1, round % 4 == 0 ? 600 : 70);
    const std::size_t outs = random.pick(1, round % 10 == 1 ? 700 : 150);
    const DType dtype = kStorageTypes[round % 3];
    const Stored weight(dtype, outs, cols, random.pick(0, 5), random);
    Strided in(rows, cols, random.pick(0, 5), random, round % 5 == 0 ? 1e15f : 1.0f);
    const auto bias = random.normals(outs);
    const float* maybe_bias = round % 2 == 0 ? bias.data() : nullptr;
    Strided expected(rows, outs, 0);
    reference->linear(in.view(), {reference->pack(weight.view()).value().get(), maybe_bias}, expected.view());

    for (const auto& name : vector_implementations()) {
      const auto kernels = make(name);
      const auto packed = kernels->pack(weight.view()).value();
      BOOST_REQUIRE(packed->rows() == outs && packed->cols() == cols);
      BOOST_REQUIRE(packed->bytes() >= outs * cols * size_of(dtype));
      Strided out(rows, outs, random.pick(0, 5));
      kernels->linear(in.view(), {packed.get(), maybe_bias}, out.view());
      BOOST_TEST_CONTEXT(name << " rows " << rows << " cols " << cols << " outs " << outs) {
        BOOST_REQUIRE(out.gaps_untouched());
        for (std::size_t row = 0; row < rows; ++row) {
          for (std::size_t feature = 0; feature < outs; ++feature) {
            double magnitude = maybe_bias != nullptr ? std::abs(bias[feature]) : 0;
            for (std::size_t col = 0; col < cols; ++col) {
              magnitude += std::abs(double{in.at(row, col)} * weight.at(feature, col));
            }
            // Higham, Accuracy and Stability of Numerical Algorithms, section 3.1: n u sum |x| |w|, and the rounding
            // of the reference itself.
            double bound = double(cols + 2) * 0x1p-24 * magnitude;
            // Inputs in two BF16 parts: 2^-17 of each is lost, and there are twice as many terms.
            if (name == "amx" && dtype == DType::kBF16) bound = bound * 2 + 0x1p-17 * magnitude;
            if (rounds_inputs(name, dtype)) bound += 0x1p-8 * magnitude;
            BOOST_REQUIRE_LE(std::abs(double{out.at(row, feature)} - expected.at(row, feature)), bound);
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_row_has_the_same_bits_alone_in_a_batch_and_with_any_number_of_threads) {
  Random random(2);
  for (const auto& name : vector_implementations()) {
    const auto one = make(name);
    const auto three = make(name, 3);
    for (const DType dtype : kStorageTypes) {
      for (const std::size_t rows : {2, 7, 50, 101}) {
        const std::size_t cols = random.pick(300, 700);
        const std::size_t outs = random.pick(300, 500);
        const Stored weight(dtype, outs, cols, 0, random);
        const auto packed = one->pack(weight.view()).value();
        Strided in(rows, cols, 1, random);
        Strided together(rows, outs, 1);
        Strided threaded(rows, outs, 1);
        one->linear(in.view(), {packed.get()}, together.view());
        three->linear(in.view(), {packed.get()}, threaded.view());
        for (std::size_t row = 0; row < rows; ++row) {
          std::vector<float> alone(outs);
          one->linear(in.view().rows_from(row, 1), {packed.get()}, {alone.data(), 1, outs});
          BOOST_REQUIRE(alone == together.row(row));
          BOOST_REQUIRE(alone == threaded.row(row));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(an_output_has_the_same_bits_in_a_slice_of_the_weight_as_in_the_whole) {
  Random random(3);
  for (const auto& name : vector_implementations()) {
    const auto kernels = make(name);
    const Stored weight(DType::kBF16, 200, 130, 0, random);
    Strided in(3, 130, 0, random);
    Strided whole(3, 200, 0);
    kernels->linear(in.view(), {kernels->pack(weight.view()).value().get()}, whole.view());
    WeightView slice = weight.view();
    slice.data = static_cast<const char*>(slice.data) + 37 * slice.row_stride * size_of(slice.dtype);
    slice.rows = 101;
    Strided part(3, 101, 0);
    kernels->linear(in.view(), {kernels->pack(slice).value().get()}, part.view());
    for (std::size_t row = 0; row < 3; ++row) {
      for (std::size_t out = 0; out < 101; ++out) BOOST_REQUIRE_EQUAL(part.at(row, out), whole.at(row, 37 + out));
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
