#include "kernels/cpu/quantised_linear.h"

#include <boost/test/unit_test.hpp>
#include <cmath>

#include "tests/kernels/any_weight.h"

using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(quantised_linear)

struct NamedOps {
  const char* name;
  const QuantisedOps* ops;
};

// All that this machine can run, those that it would not choose by itself included.
std::vector<NamedOps> every_ops() {
  std::vector<NamedOps> all;
#if defined(__x86_64__)
  const CpuFeatures features = detect_cpu_features();
  if (features.avx2) all.push_back({"avx2", &kAvx2QuantisedOps});
  if (features.avx_vnni) all.push_back({"avx-vnni", &kAvxVnniQuantisedOps});
  if (features.avx512_vnni) all.push_back({"avx512", &kAvx512QuantisedOps});
  if (features.amx) all.push_back({"amx", &kAmxQuantisedOps});
#endif
  return all;
}

void run(QuantisedLinear& linear, ConstMatrixF32 in, const QuantisedPanels& weight, const float* bias, MatrixF32 out) {
  const QuantisedLinear::Product product{&weight, bias, out};
  linear.run(in, {&product, 1});
}

std::unique_ptr<Team> team_of(int threads) {
  return std::move(Team::make(std::vector<int>(static_cast<std::size_t>(threads), 0))).value();
}

BOOST_AUTO_TEST_CASE(every_implementation_gives_the_bits_that_the_formula_gives) {
  Random random(1);
  const auto team = team_of(1);
  for (int round = 0; round < 160; ++round) {
    const DType dtype = kFormats[round % 8];
    const bool extreme = round % 5 == 4;
    const std::size_t rows = random.pick(1, 40);
    const std::size_t cols = pick_cols(dtype, random);
    const std::size_t outs = random.pick(1, 70);
    const std::size_t gap = block_elements(dtype) * random.pick(0, 2);
    const AnyWeight weight(dtype, outs, cols, is_panel_format(dtype) ? gap / 64 * 64 : gap, random, extreme);
    const Strided in(rows, cols, random.pick(0, 5), random, round % 3 == 0 ? 1e-20f : round % 3 == 1 ? 1.0f : 1e15f);
    const auto bias = random.normals(outs);
    const float* maybe_bias = round % 2 == 0 ? bias.data() : nullptr;
    const QuantisedPanels panels(weight.view(), *team);
    BOOST_REQUIRE(panels.rows() == outs && panels.cols() == cols);
    std::vector<float> expected(rows * outs);
    Strided inputs(in);
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t out = 0; out < outs; ++out) {
        expected[row * outs + out] = by_formula(weight.view(), out, inputs.view().row(row), maybe_bias);
      }
    }
    for (const auto& [name, ops] : every_ops()) {
      QuantisedLinear linear(*ops, *team);
      Strided out(rows, outs, random.pick(0, 5));
      run(linear, inputs.view(), panels, maybe_bias, out.view());
      BOOST_TEST_CONTEXT(name << " format " << int(dtype) << " rows " << rows << " cols " << cols << " outs " << outs) {
        BOOST_REQUIRE(out.gaps_untouched());
        for (std::size_t row = 0; row < rows; ++row) {
          for (std::size_t feature = 0; feature < outs; ++feature) {
            BOOST_REQUIRE_EQUAL(out.at(row, feature), expected[row * outs + feature]);
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(the_result_is_off_by_no_more_than_the_rounding_of_the_inputs_allows) {
  Random random(2);
  const auto reference = make("reference");
  for (int round = 0; round < 80; ++round) {
    const DType dtype = kFormats[round % 8];
    const std::size_t rows = random.pick(1, 20);
    const std::size_t cols = pick_cols(dtype, random);
    const std::size_t outs = random.pick(1, 40);
    const AnyWeight weight(dtype, outs, cols, 0, random);
    Strided in(rows, cols, 0, random);
    const auto bias = random.normals(outs);
    Strided expected(rows, outs, 0);
    reference->linear(in.view(), {reference->pack(weight.view()).value().get(), bias.data()}, expected.view());
    for (const auto& name : vector_implementations()) {
      const auto kernels = make(name);
      Strided out(rows, outs, 0);
      kernels->linear(in.view(), {kernels->pack(weight.view()).value().get(), bias.data()}, out.view());
      std::vector<float> values(cols);
      for (std::size_t feature = 0; feature < outs; ++feature) {
        dequantize_row(weight.view(), feature, values.data());
        for (std::size_t row = 0; row < rows; ++row) {
          const float* inputs = in.view().row(row);
          const std::size_t block = dtype == DType::kInt8 ? cols : 32;
          double allowed = 0, magnitude = std::abs(bias[feature]);
          for (std::size_t first = 0; first < cols; first += block) {
            double largest = 0, weights = 0;
            for (std::size_t i = first; i < std::min(cols, first + block); ++i) {
              largest = std::max(largest, std::abs(double{inputs[i]}));
              weights += std::abs(values[i]);
              magnitude += std::abs(double{inputs[i]} * values[i]);
            }
            allowed += weights * largest / 254;
          }
          // Mins cancel most of what is summed, hence the wide margin for the rounding of float sums.
          BOOST_REQUIRE_LE(std::abs(double{out.at(row, feature)} - expected.at(row, feature)),
                           allowed * 1.0001 + 1e-4 * magnitude);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_row_has_the_same_bits_alone_in_a_batch_and_with_any_number_of_threads) {
  Random random(3);
  const auto one = team_of(1);
  const auto three = team_of(3);
  for (const auto& [name, ops] : every_ops()) {
    QuantisedLinear alone(*ops, *one);
    QuantisedLinear together(*ops, *three);
    for (const DType dtype : kFormats) {
      for (const std::size_t rows : {2, 15, 33}) {
        const std::size_t outs = random.pick(200, 400);
        const AnyWeight weight(dtype, outs, 512, 0, random);
        const QuantisedPanels panels(weight.view(), *three);
        Strided in(rows, 512, 1, random);
        Strided out(rows, outs, 1);
        run(together, in.view(), panels, nullptr, out.view());
        for (std::size_t row = 0; row < rows; ++row) {
          std::vector<float> single(outs);
          run(alone, in.view().rows_from(row, 1), panels, nullptr, {single.data(), 1, outs});
          BOOST_REQUIRE(single == out.row(row));
        }
      }
    }
  }
}

// Alike or not, side by side in one matrix or apart.
BOOST_AUTO_TEST_CASE(products_with_the_same_inputs_agree_with_each_alone) {
  Random random(5);
  const auto team = team_of(2);
  for (const auto& [name, ops] : every_ops()) {
    QuantisedLinear linear(*ops, *team);
    for (int round = 0; round < 24; ++round) {
      const std::size_t rows = random.pick(1, 40), cols = 512;
      const std::size_t outs[] = {random.pick(1, 300), random.pick(1, 40), random.pick(1, 40)};
      const std::size_t total = outs[0] + outs[1] + outs[2];
      Strided in(rows, cols, 0, random);
      const auto bias = random.normals(300);
      std::vector<float> together(rows * total, -1.0f);
      std::vector<std::unique_ptr<AnyWeight>> weights;
      std::vector<std::unique_ptr<QuantisedPanels>> panels;
      std::vector<QuantisedLinear::Product> products;
      for (std::size_t i = 0, first = 0; i < 3; first += outs[i++]) {
        const DType dtype = round % 2 == 0 ? kFormats[round / 2 % 8] : kFormats[random.pick(0, 7)];
        weights.push_back(std::make_unique<AnyWeight>(dtype, outs[i], cols, 0, random));
        panels.push_back(std::make_unique<QuantisedPanels>(weights.back()->view(), *team));
        products.push_back(
            {panels.back().get(), i == 1 ? nullptr : bias.data(), {together.data() + first, rows, outs[i], total}});
      }
      linear.run(in.view(), products);
      for (const auto& product : products) {
        std::vector<float> single(rows * product.out.cols);
        run(linear, in.view(), *product.weight, product.bias, {single.data(), rows, product.out.cols});
        for (std::size_t row = 0; row < rows; ++row) {
          BOOST_REQUIRE(std::equal(product.out.row(row), product.out.row(row) + product.out.cols,
                                   single.begin() + static_cast<std::ptrdiff_t>(row * product.out.cols)));
        }
      }
    }
  }
}

// More rows than one block of them, and wide enough for several pieces.
BOOST_AUTO_TEST_CASE(blocks_of_rows_agree_with_single_rows) {
  Random random(4);
  const auto team = team_of(2);
  const std::size_t rows = 150, cols = 8192, outs = 40;
  const AnyWeight weight(DType::kQ4_0, outs, cols, 0, random);
  const QuantisedPanels panels(weight.view(), *team);
  Strided in(rows, cols, 0, random);
  for (const auto& [name, ops] : every_ops()) {
    QuantisedLinear linear(*ops, *team);
    Strided out(rows, outs, 0);
    run(linear, in.view(), panels, nullptr, out.view());
    for (const std::size_t row : {0, 126, 127, 128, 149}) {
      std::vector<float> single(outs);
      run(linear, in.view().rows_from(row, 1), panels, nullptr, {single.data(), 1, outs});
      BOOST_REQUIRE(single == out.row(row));
    }
  }
}

BOOST_AUTO_TEST_CASE(slices_of_stored_panels_are_used_where_they_are) {
  Random random(5);
  const auto kernels = make(vector_implementations().empty() ? "reference" : vector_implementations().back());
  const auto reference = make("reference");
  for (const DType dtype : {DType::kInt8, DType::kInt4}) {
    const AnyWeight weight(dtype, 100, 300, 0, random);
    const WeightView part = slice(weight.view(), 48, 52, 64, 192);
    Strided in(3, 192, 0, random);
    Strided out(3, 52, 0), expected(3, 52, 0);
    kernels->linear(in.view(), {kernels->pack(part).value().get()}, out.view());
    reference->linear(in.view(), {reference->pack(part).value().get()}, expected.view());
    // A tenth of what a row or column out of place would do.
    BOOST_REQUIRE_LE(largest_difference(out, expected, 3, 52), 1.0f);
  }
}

BOOST_AUTO_TEST_CASE(embeddings_of_every_format_are_what_their_rows_stand_for) {
  Random random(6);
  std::vector<std::string> names = vector_implementations();
  names.push_back("reference");
  for (const auto& name : names) {
    const auto kernels = make(name);
    for (const DType dtype : kFormats) {
      const AnyWeight table(dtype, 20, 256, 0, random);
      const std::uint32_t tokens[] = {104, 99, 119, 120};
      std::vector<float> out(4 * 256, 1.0f), expected(256);
      kernels->begin_step({.tokens = tokens});
      kernels->embed(table.view(), 100, {out.data(), 4, 256});
      dequantize_row(table.view(), 4, expected.data());
      BOOST_TEST(std::equal(expected.begin(), expected.end(), out.begin()));
      dequantize_row(table.view(), 19, expected.data());
      BOOST_TEST(std::equal(expected.begin(), expected.end(), out.begin() + 512));
      for (const std::size_t row : {1, 3}) {
        BOOST_TEST(std::all_of(&out[row * 256], &out[row * 256] + 256, [](float x) { return x == 0; }));
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
