#include "kernels/cpu/quantised_linear.h"

#include <atomic>
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

struct Products {
  Products(const QuantisedOps& ops, Team& team) : inputs(ops, team), linear(ops, team, inputs) {}

  void run(ConstMatrixF32 in, const QuantisedPanels& weight, const float* bias, MatrixF32 out) {
    linear.run(in, {&weight, bias}, out);
  }

  QuantisedInputs inputs;
  QuantisedLinear linear;
};

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
      Products products(*ops, *team);
      Strided out(rows, outs, random.pick(0, 5));
      products.run(inputs.view(), panels, maybe_bias, out.view());
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
    Products alone(*ops, *one);
    Products together(*ops, *three);
    for (const DType dtype : kFormats) {
      for (const std::size_t rows : {2, 15, 33}) {
        const std::size_t outs = random.pick(200, 400);
        const AnyWeight weight(dtype, outs, 512, 0, random);
        const QuantisedPanels panels(weight.view(), *three);
        Strided in(rows, 512, 1, random);
        Strided out(rows, outs, 1);
        together.run(in.view(), panels, nullptr, out.view());
        for (std::size_t row = 0; row < rows; ++row) {
          std::vector<float> single(outs);
          alone.run(in.view().rows_from(row, 1), panels, nullptr, {single.data(), 1, outs});
          BOOST_REQUIRE(single == out.row(row));
        }
      }
    }
  }
}

// Formats alike or not, in groups or not, with a second weight beside the first or not.
BOOST_AUTO_TEST_CASE(products_with_the_same_inputs_agree_with_each_alone) {
  Random random(5);
  const auto team = team_of(2);
  const std::size_t groups[] = {0, 8, 16, 20, 33, 64};
  for (const auto& [name, ops] : every_ops()) {
    Products products(*ops, *team);
    for (int round = 0; round < 24; ++round) {
      const std::size_t rows = random.pick(1, 40), cols = 512;
      const std::size_t group = groups[random.pick(0, std::size(groups) - 1)];
      const std::size_t unit = std::max<std::size_t>(1, group);
      Strided in(rows, cols, 0, random);
      const auto bias = random.normals(400);
      std::vector<std::unique_ptr<AnyWeight>> weights;
      std::vector<std::unique_ptr<QuantisedPanels>> panels;
      const auto pack = [&](std::size_t outs) -> LinearWeight {
        const DType dtype = round % 2 == 0 ? kFormats[round / 2 % 8] : kFormats[random.pick(0, 7)];
        weights.push_back(std::make_unique<AnyWeight>(dtype, outs, cols, 0, random));
        panels.push_back(std::make_unique<QuantisedPanels>(weights.back()->view(), *team));
        return {panels.back().get(), random.pick(0, 1) == 1 ? bias.data() : nullptr};
      };
      std::vector<ProductPart> parts;
      std::vector<std::vector<float>> sums[2];
      for (std::size_t i = 0; i < 3; ++i) {
        const std::size_t outs = random.pick(1, i == 0 ? 300 / unit + 1 : 60 / unit + 1) * unit;
        ProductPart part{pack(outs), {}};
        if (random.pick(0, 1) == 1) part.second = pack(outs);
        parts.push_back(part);
        for (auto& of : sums) of.emplace_back(rows * outs, -1.0f);
      }
      std::atomic<bool> cuts_a_group = false;  // Boost.Test's checks are for one thread
      products.linear.run(in.view(), parts, group, [&](const PanelSums& piece) {
        const std::size_t outs = parts[piece.part].first.weight->rows();
        const std::size_t stride = group == 0 ? piece.outs : piece.group_stride;
        for (std::size_t row = 0; row < piece.rows; ++row) {
          for (std::size_t out = 0; out < piece.outs; ++out) {
            const std::size_t from = out / std::max<std::size_t>(1, group == 0 ? piece.outs : group) * stride +
                                     out % (group == 0 ? piece.outs : group);
            const std::size_t to = (piece.first_row + row) * outs + piece.first_out + out;
            sums[0][piece.part][to] = piece.row(row)[from];
            if (parts[piece.part].second.weight != nullptr) sums[1][piece.part][to] = piece.second_row(row)[from];
          }
        }
        if (group != 0 && piece.outs % group != 0) cuts_a_group = true;
      });
      BOOST_REQUIRE(!cuts_a_group);
      for (std::size_t i = 0; i < parts.size(); ++i) {
        for (const bool second : {false, true}) {
          const LinearWeight& linear = second ? parts[i].second : parts[i].first;
          if (linear.weight == nullptr) continue;
          const std::size_t outs = linear.weight->rows();
          std::vector<float> single(rows * outs);
          products.linear.run(in.view(), linear, {single.data(), rows, outs});
          BOOST_REQUIRE(single == sums[second][i]);
        }
      }
    }
  }
}

// What a norm has quantised is what its products would have quantised, also where they read several formats, and is not
// used once the matrix has changed.
BOOST_AUTO_TEST_CASE(products_behind_a_norm_agree_with_those_of_its_result) {
  Random random(7);
  for (const auto& name : vector_implementations()) {
    const auto kernels = make(name, 2), fresh = make(name, 2);
    for (int round = 0; round < 24; ++round) {
      const std::size_t cols = 512, outs = 48;
      const std::vector<float> norm = random.normals(cols);
      std::vector<std::unique_ptr<AnyWeight>> weights;
      std::vector<std::unique_ptr<PackedWeight>> packed;
      for (int i = 0; i < 5; ++i) {
        const DType dtype = kFormats[i < 2 ? round % 8 : random.pick(0, 7)];
        weights.push_back(std::make_unique<AnyWeight>(dtype, outs, cols, 0, random));
        packed.push_back(kernels->pack(weights.back()->view()).value());
      }
      Strided normed(40, cols, 1);
      for (int step = 0; step < 4; ++step) {  // from the second one on the norm knows what is read
        const std::size_t rows = random.pick(1, 40);
        Strided in(rows, cols, 0, random), addend(rows, cols, 0, random), out(rows, outs, 0), expected(rows, outs, 0);
        const MatrixF32 to = normed.view().rows_from(0, rows);
        if (step % 2 == 0) {
          kernels->rms_norm(in.view(), norm, 1e-5f, to);
        } else {
          kernels->add_rms_norm(addend.view(), in.view(), norm, 1e-5f, to);
        }
        for (int i = 0; i < 5; ++i) {
          if (i == 4) kernels->add(addend.view(), to);
          kernels->linear(to, {packed[static_cast<std::size_t>(i)].get()}, out.view());
          fresh->linear(to, {packed[static_cast<std::size_t>(i)].get()}, expected.view());
          for (std::size_t row = 0; row < rows; ++row) BOOST_REQUIRE(out.row(row) == expected.row(row));
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
    Products products(*ops, *team);
    Strided out(rows, outs, 0);
    products.run(in.view(), panels, nullptr, out.view());
    for (const std::size_t row : {0, 126, 127, 128, 149}) {
      std::vector<float> single(outs);
      products.run(in.view().rows_from(row, 1), panels, nullptr, {single.data(), 1, outs});
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
