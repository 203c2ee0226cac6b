#include <boost/test/unit_test.hpp>
#include <cmath>
#include <numeric>
#include <optional>

#include "tests/kernels/any_weight.h"

using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(quantised_fused)

// A weight of a quantised format, or of float32, packed.
struct Packed {
  Packed(Kernels& kernels, bool quantised, DType dtype, std::size_t outs, std::size_t cols, std::size_t group,
         Random& random) {
    if (quantised) {
      weight.emplace(dtype, outs, cols, 0, random);
      packed = kernels.pack(weight->view(), group).value();
    } else {
      stored.emplace(DType::kF32, outs, cols, 0, random);
      packed = kernels.pack(stored->view(), group).value();
    }
    if (random.pick(0, 1) == 1) bias = random.normals(outs);
  }
  LinearWeight linear() const { return {packed.get(), bias.empty() ? nullptr : bias.data()}; }

  std::optional<AnyWeight> weight;
  std::optional<Stored> stored;
  std::vector<float> bias;
  std::unique_ptr<PackedWeight> packed;
};

// Of products, whose own tests say what they yield; one weight quantised, or both, in formats alike or not.
BOOST_AUTO_TEST_CASE(swiglu_is_made_of_the_products_of_its_weights) {
  Random random(11);
  for (const auto& name : vector_implementations()) {
    for (int round = 0; round < 32; ++round) {
      const auto kernels = make(name, 1 + round % 3);
      const std::size_t rows = random.pick(1, round % 8 == 0 ? 150 : 30), cols = 256 * random.pick(1, 2);
      const std::size_t outs = random.pick(1, round % 2 == 0 ? 700 : 40);
      const DType dtype = kFormats[round % 8];
      const DType other = round % 3 == 0 ? kFormats[random.pick(0, 7)] : dtype;
      const Packed gate(*kernels, round % 8 != 3, dtype, outs, cols, 0, random);
      const Packed up(*kernels, round % 8 != 5, other, outs, cols, 0, random);
      Strided in(rows, cols, random.pick(0, 3), random);
      Strided gates(rows, outs, 0), ups(rows, outs, 0), out(rows, outs, random.pick(0, 3));
      kernels->linear(in.view(), gate.linear(), gates.view());
      kernels->linear(in.view(), up.linear(), ups.view());
      kernels->swiglu(in.view(), gate.linear(), up.linear(), out.view());
      BOOST_TEST_CONTEXT(name << " formats " << int(dtype) << " " << int(other) << " rows " << rows << " outs "
                              << outs) {
        BOOST_REQUIRE(out.gaps_untouched());
        for (std::size_t row = 0; row < rows; ++row) {
          for (std::size_t i = 0; i < outs; ++i) {
            const double x = gates.at(row, i), expected = x / (1 + std::exp(-x)) * ups.at(row, i);
            BOOST_REQUIRE_LE(std::abs(out.at(row, i) - expected), 1e-6 * std::abs(expected) + 1e-30);
          }
        }
      }
    }
  }
}

// At position 0, where nothing is rotated.
BOOST_AUTO_TEST_CASE(queries_keys_and_values_are_the_products_of_their_weights) {
  Random random(12);
  const std::size_t head_dims[] = {2, 16, 20, 64, 80};
  const float frequencies[] = {1.0f};
  for (const auto& name : vector_implementations()) {
    for (int round = 0; round < 40; ++round) {
      const auto kernels = make(name, 1 + round % 3);
      const std::size_t head_dim = head_dims[round % 5], kv_heads = random.pick(1, 3);
      const std::size_t heads = kv_heads * random.pick(1, 5);
      const std::size_t rows = random.pick(1, round % 8 == 0 ? 150 : 30), cols = 256;
      // All in one format, in several, and with a weight that is not quantised in each place.
      const auto pack = [&](int place, std::size_t of_heads) {
        const DType dtype = round % 2 == 0 ? kFormats[round / 2 % 8] : kFormats[random.pick(0, 7)];
        return Packed(*kernels, round % 7 != place, dtype, of_heads * head_dim, cols, head_dim, random);
      };
      const Packed query = pack(1, heads), key = pack(3, kv_heads), value = pack(5, kv_heads);
      Strided in(rows, cols, random.pick(0, 3), random);
      std::vector<std::uint32_t> slots(rows), positions(rows, 0);
      std::iota(slots.begin(), slots.end(), 0u);
      Pages pages(DType::kF32, rows / 16 + 1, 16, kv_heads, head_dim);
      Strided queries(rows, heads * head_dim, 2);
      kernels->begin_step({.positions = positions, .slots = slots});
      kernels->project_qkv(in.view(), {.query = query.linear(), .key = key.linear(), .value = value.linear()},
                           {.inverse_frequencies = frequencies}, queries.view(), pages.view());

      Strided of_query(rows, heads * head_dim, 0), of_key(rows, kv_heads * head_dim, 0);
      Strided of_value(rows, kv_heads * head_dim, 0);
      kernels->linear(in.view(), query.linear(), of_query.view());
      kernels->linear(in.view(), key.linear(), of_key.view());
      kernels->linear(in.view(), value.linear(), of_value.view());
      BOOST_TEST_CONTEXT(name << " round " << round << " head_dim " << head_dim << " rows " << rows) {
        BOOST_REQUIRE(queries.gaps_untouched());
        for (std::size_t row = 0; row < rows; ++row) {
          BOOST_REQUIRE(queries.row(row) == of_query.row(row));
          for (std::size_t head = 0; head < kv_heads; ++head) {
            for (std::size_t i = 0; i < head_dim; ++i) {
              BOOST_REQUIRE_EQUAL(pages.key(row, head, i), of_key.at(row, head * head_dim + i));
              BOOST_REQUIRE_EQUAL(pages.value(row, head, i), of_value.at(row, head * head_dim + i));
            }
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
