#include <boost/test/unit_test.hpp>
#include <cmath>
#include <numeric>
#include <optional>

#include "tests/kernels/implementations.h"

using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(fused)

// A layer's projections to heads with everything that may be there or not, and pages to write to.
struct Projection {
  Projection(std::uint32_t seed, DType weights, DType pages) : random(seed) {
    const std::size_t head_dims[] = {2, 8, 20, 33, 64, 80, 128};
    head_dim = head_dims[random.pick(0, std::size(head_dims) - 1)];
    kv_heads = random.pick(1, 3);
    heads = kv_heads * random.pick(1, 5);
    rows = random.pick(1, seed % 5 == 0 ? 150 : 20);
    cols = random.pick(1, seed % 3 == 0 ? 300 : 70);
    query.emplace(weights, heads * head_dim, cols, random.pick(0, 3), random);
    key.emplace(weights, kv_heads * head_dim, cols, random.pick(0, 3), random);
    value.emplace(weights, kv_heads * head_dim, cols, random.pick(0, 3), random);
    in.emplace(rows, cols, random.pick(0, 3), random, 1 / std::sqrt(float(cols)));
    if (random.pick(0, 1) == 1) query_bias = random.normals(heads * head_dim);
    if (random.pick(0, 1) == 1) key_bias = random.normals(kv_heads * head_dim);
    if (random.pick(0, 1) == 1) value_bias = random.normals(kv_heads * head_dim);
    if (random.pick(0, 1) == 1) query_norm = random.normals(head_dim);
    if (random.pick(0, 1) == 1) key_norm = random.normals(head_dim);
    for (std::size_t i = random.pick(1, head_dim / 2); i > 0; --i) frequencies.push_back(std::pow(0.7f, float(i)));
    layout = seed % 2 == 0 ? RopeLayout::kHalves : RopeLayout::kInterleaved;

    block_size = random.pick(1, 20);
    num_blocks = rows / block_size + 3;
    slots.resize(num_blocks * block_size);
    std::iota(slots.begin(), slots.end(), 0u);
    for (std::size_t i = slots.size() - 1; i > 0; --i) std::swap(slots[i], slots[random.pick(0, i)]);
    slots.resize(rows);
    for (std::size_t row = 0; row < rows; ++row) {
      positions.push_back(static_cast<std::uint32_t>(random.pick(0, 200'000)));
    }
    dtype = pages;
  }

  struct Result {
    Result(const Projection& of)
        : queries(of.rows, of.heads * of.head_dim, 2),
          pages(of.dtype, of.num_blocks, of.block_size, of.kv_heads, of.head_dim) {}
    Strided queries;
    Pages pages;
  };

  // Rows [first, first + count) of the batch, with weights packed by `kernels`.
  Result run(Kernels& kernels, std::size_t first, std::size_t count) {
    const auto packed_query = kernels.pack(query->view(), head_dim).value();
    const auto packed_key = kernels.pack(key->view(), head_dim).value();
    const auto packed_value = kernels.pack(value->view(), head_dim).value();
    const auto bias_of = [](const std::vector<float>& bias) { return bias.empty() ? nullptr : bias.data(); };
    Result result(*this);
    kernels.begin_step(
        {.positions = std::span(positions).subspan(first, count), .slots = std::span(slots).subspan(first, count)});
    kernels.project_qkv(in->view().rows_from(first, count),
                        {{packed_query.get(), bias_of(query_bias)},
                         {packed_key.get(), bias_of(key_bias)},
                         {packed_value.get(), bias_of(value_bias)},
                         query_norm,
                         key_norm,
                         1e-5f},
                        {frequencies, 1.2f, layout}, result.queries.view().rows_from(first, count),
                        result.pages.view());
    return result;
  }

  Random random;
  std::size_t head_dim, kv_heads, heads, rows, cols, block_size, num_blocks;
  DType dtype;
  std::optional<Stored> query, key, value;
  std::optional<Strided> in;
  std::vector<float> query_bias, key_bias, value_bias, query_norm, key_norm, frequencies;
  std::vector<std::uint32_t> positions, slots;
  RopeLayout layout;
};

BOOST_AUTO_TEST_CASE(queries_keys_and_values_agree_with_the_reference_and_lie_in_their_slots) {
  for (std::uint32_t seed = 0; seed < 60; ++seed) {
    Projection projection(seed, kStorageTypes[seed % 3], DType::kF32);
    const auto expected = projection.run(*make("reference"), 0, projection.rows);
    for (const auto& name : vector_implementations()) {
      const auto result = projection.run(*make(name, seed % 2 == 0 ? 1 : 3), 0, projection.rows);
      BOOST_TEST_CONTEXT(name << " seed " << seed << " head_dim " << projection.head_dim) {
        // A norm of a head with a tiny mean square magnifies.
        const float allowed = rounds_inputs(name, kStorageTypes[seed % 3]) ? 0.1f : 1e-3f;
        BOOST_REQUIRE_LE(largest_difference(result.queries, expected.queries, projection.rows,
                                            projection.heads * projection.head_dim),
                         allowed);
        BOOST_REQUIRE(result.queries.gaps_untouched());
        result.pages.compare(expected.pages, [&](float a, float b) { BOOST_REQUIRE_LE(std::abs(a - b), allowed); });
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(pages_of_every_type_hold_what_float32_pages_hold_as_near_as_they_can) {
  auto names = vector_implementations();
  names.push_back("reference");
  for (const auto& name : names) {
    for (std::uint32_t seed = 0; seed < 12; ++seed) {
      for (const DType dtype : {DType::kF16, DType::kBF16, DType::kI8, DType::kE4M3}) {
        Projection projection(seed, DType::kBF16, DType::kF32);
        const auto expected = projection.run(*make(name), 0, projection.rows);
        projection.dtype = dtype;
        const auto result = projection.run(*make(name), 0, projection.rows);
        for (const std::uint32_t slot : projection.slots) {
          for (std::size_t head = 0; head < projection.kv_heads; ++head) {
            float largest = 0;
            for (std::size_t i = 0; i < projection.head_dim; ++i) {
              largest = std::max(largest, std::abs(expected.pages.key(slot, head, i)));
            }
            for (std::size_t i = 0; i < projection.head_dim; ++i) {
              const float key = expected.pages.key(slot, head, i);
              // Half of a step: of 127 in the largest element, or of the mantissa (or of the smallest number).
              const float bound = dtype == DType::kI8     ? largest / 127 * 0.501f
                                  : dtype == DType::kE4M3 ? std::abs(key) * 0x1.01p-4f + largest / 448 * 0x1.01p-10f
                                  : dtype == DType::kBF16 ? std::abs(key) * 0x1p-8f
                                                          : std::abs(key) * 0x1p-11f + 0x1p-25f;
              BOOST_REQUIRE_LE(std::abs(result.pages.key(slot, head, i) - key), bound);
            }
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_key_or_value_that_is_not_finite_stays_visible_in_pages_with_scales) {
  auto names = vector_implementations();
  names.push_back("reference");
  for (const auto& name : names) {
    for (const auto& [dtype, bad] : {std::pair{DType::kI8, INFINITY},
                                     {DType::kI8, -INFINITY},
                                     {DType::kI8, NAN},
                                     {DType::kE4M3, INFINITY},
                                     {DType::kE4M3, -INFINITY},
                                     {DType::kE4M3, NAN}}) {
      const auto kernels = make(name);
      const std::vector<float> zeros(8), biases = {1, 2, 3, bad, 5, 6, 7, 8};
      const auto zero = kernels->pack({zeros.data(), DType::kF32, 8, 1, 1}, 8).value();
      Pages pages(dtype, 1, 2, 1, 8);
      std::vector<float> queries(8);
      const float in = 0;
      const std::uint32_t position = 0, slot = 1;
      kernels->begin_step({.positions = {&position, 1}, .slots = {&slot, 1}});
      kernels->project_qkv({&in, 1, 1}, {{zero.get()}, {zero.get(), biases.data()}, {zero.get(), biases.data()}},
                           {{}, 1, RopeLayout::kHalves}, {queries.data(), 1, 8}, pages.view());
      BOOST_TEST(std::isnan(pages.key(1, 0, 3)));
      BOOST_TEST(std::isnan(pages.value(1, 0, 3)));
      BOOST_TEST(pages.key(0, 0, 3) == 0);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_projected_row_has_the_same_bits_alone_and_with_any_number_of_threads) {
  for (const auto& name : vector_implementations()) {
    const auto one = make(name);
    const auto three = make(name, 3);
    for (std::uint32_t seed = 200; seed < 212; ++seed) {
      Projection projection(seed, kStorageTypes[seed % 3], kPageTypes[seed % std::size(kPageTypes)]);
      const auto together = projection.run(*one, 0, projection.rows);
      const auto threaded = projection.run(*three, 0, projection.rows);
      BOOST_REQUIRE(threaded.pages.same_bits(together.pages));
      Pages alone_pages = Projection::Result(projection).pages;
      for (std::size_t row = 0; row < projection.rows; ++row) {
        const auto alone = projection.run(*one, row, 1);
        BOOST_REQUIRE(alone.queries.row(row) == together.queries.row(row));
        BOOST_REQUIRE(threaded.queries.row(row) == together.queries.row(row));
        alone_pages.copy_slot(alone.pages, projection.slots[row]);
      }
      BOOST_REQUIRE(alone_pages.same_bits(together.pages));
    }
  }
}

// One head of one row, whose values are the biases.
static std::vector<float> rotated(Kernels& kernels, const std::vector<float>& head, std::uint32_t position,
                                  const Rotary& rotary) {
  const std::vector<float> zeros(head.size());
  const auto zero = kernels.pack({zeros.data(), DType::kF32, head.size(), 1, 1}, head.size()).value();
  Pages pages(DType::kF32, 1, 1, 1, head.size());
  std::vector<float> out(head.size());
  const float in = 0;
  const std::uint32_t slot = 0;
  kernels.begin_step({.positions = {&position, 1}, .slots = {&slot, 1}});
  kernels.project_qkv({&in, 1, 1}, {{zero.get(), head.data()}, {zero.get(), head.data()}, {zero.get(), head.data()}},
                      rotary, {out.data(), 1, out.size()}, pages.view());
  for (std::size_t i = 0; i < head.size(); ++i) {
    BOOST_TEST(pages.key(0, 0, i) == out[i]);
    BOOST_TEST(pages.value(0, 0, i) == head[i]);
  }
  return out;
}

BOOST_AUTO_TEST_CASE(rope_pairs_halves_or_neighbours_and_leaves_the_rest_of_the_head_and_the_values) {
  const float quarter_turn = 3.14159265f / 2;
  const std::uint32_t position = 1;
  auto names = vector_implementations();
  names.push_back("reference");
  for (const auto& name : names) {
    const auto kernels = make(name);
    const std::vector<float> frequencies(2, quarter_turn);
    const auto halves = rotated(*kernels, {1, 2, 3, 4, 5}, position, {frequencies, 1, RopeLayout::kHalves});
    const auto pairs = rotated(*kernels, {1, 2, 3, 4, 5}, position, {frequencies, 1, RopeLayout::kInterleaved});
    const float expected_halves[] = {-3, -4, 1, 2, 5};
    const float expected_pairs[] = {-2, 1, -4, 3, 5};
    for (int i = 0; i < 5; ++i) {
      BOOST_TEST(std::abs(halves[i] - expected_halves[i]) < 1e-6f);
      BOOST_TEST(std::abs(pairs[i] - expected_pairs[i]) < 1e-6f);
    }
  }
}

BOOST_AUTO_TEST_CASE(rope_follows_new_positions_frequencies_and_magnitudes) {
  Random random(4);
  for (const auto& name : vector_implementations()) {
    const auto kernels = make(name);
    const auto reference = make("reference");
    const auto head = random.normals(8);
    std::uint32_t position = 3;
    std::vector<float> frequencies = {1, 0.1f, 0.01f, 0.001f};
    float magnitude = 1;
    for (int change = 0; change < 5; ++change) {
      if (change == 1) position = 10;
      if (change == 2) frequencies[3] = 0.5f;
      if (change == 3) magnitude = 2;
      if (change == 4) frequencies.pop_back();
      const Rotary rotary = {frequencies, magnitude, RopeLayout::kHalves};
      const auto out = rotated(*kernels, head, position, rotary);
      const auto expected = rotated(*reference, head, position, rotary);
      for (std::size_t i = 0; i < head.size(); ++i) BOOST_TEST(std::abs(out[i] - expected[i]) < 2e-6f);
    }
  }
}

BOOST_AUTO_TEST_CASE(swiglu_agrees_with_the_reference) {
  Random random(5);
  for (int round = 0; round < 40; ++round) {
    const std::size_t rows = random.pick(1, round % 8 == 0 ? 150 : 10);
    const std::size_t cols = random.pick(1, round % 4 == 0 ? 400 : 70);
    const std::size_t outs = random.pick(1, round % 5 == 0 ? 700 : 150);
    const Stored gate(kStorageTypes[round % 3], outs, cols, 1, random);
    const Stored up(kStorageTypes[round % 3], outs, cols, 2, random);
    const auto gate_bias = random.normals(outs);
    const auto up_bias = random.normals(outs);
    Strided in(rows, cols, 1, random, 1 / std::sqrt(float(cols)));
    const auto run = [&](Kernels& kernels, std::size_t first, std::size_t count) {
      const auto packed_gate = kernels.pack(gate.view()).value();
      const auto packed_up = kernels.pack(up.view()).value();
      Strided out(rows, outs, 3);
      kernels.swiglu(in.view().rows_from(first, count),
                     {packed_gate.get(), round % 2 == 0 ? gate_bias.data() : nullptr},
                     {packed_up.get(), round % 4 < 2 ? up_bias.data() : nullptr}, out.view().rows_from(first, count));
      return out;
    };
    const Strided expected = run(*make("reference"), 0, rows);
    for (const auto& name : vector_implementations()) {
      const Strided out = run(*make(name), 0, rows);
      const Strided threaded = run(*make(name, 3), 0, rows);
      const float allowed = rounds_inputs(name, kStorageTypes[round % 3]) ? 0.05f : 5e-4f;
      BOOST_TEST_CONTEXT(name << " (" << rows << ", " << cols << ") to " << outs) {
        BOOST_REQUIRE_LE(largest_difference(out, expected, rows, outs), allowed);
        BOOST_REQUIRE(out.gaps_untouched());
        for (const std::size_t row : {std::size_t{0}, rows / 2, rows - 1}) {
          BOOST_REQUIRE(threaded.row(row) == out.row(row));
          BOOST_REQUIRE(run(*make(name), row, 1).row(row) == out.row(row));
        }
      }
    }
  }
}

// Gates as biases: any number, exactly.
static std::vector<float> silu(Kernels& kernels, const std::vector<float>& gates, float up) {
  const std::vector<float> zeros(gates.size());
  const std::vector<float> ups(gates.size(), up);
  const auto zero = kernels.pack({zeros.data(), DType::kF32, gates.size(), 1, 1}).value();
  std::vector<float> out(gates.size());
  const float in = 0;
  kernels.swiglu({&in, 1, 1}, {zero.get(), gates.data()}, {zero.get(), ups.data()}, {out.data(), 1, out.size()});
  return out;
}

BOOST_AUTO_TEST_CASE(swiglu_holds_from_the_smallest_to_the_largest_gate) {
  Random random(6);
  for (const float scale : {1.0f, 20.0f, 1e4f, 1e-20f}) {
    const auto gates = random.normals(1000, scale);
    const auto expected = silu(*make("reference"), gates, 0.7f);
    for (const auto& name : vector_implementations()) {
      const auto out = silu(*make(name), gates, 0.7f);
      // Below -88 silu is smaller than 1e-36 in truth, and here.
      for (std::size_t i = 0; i < gates.size(); ++i) {
        BOOST_REQUIRE_LE(std::abs(out[i] - expected[i]), 2e-6f * std::abs(expected[i]) + 1e-33f);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_nan_stays_visible) {
  for (const auto& name : vector_implementations()) {
    std::vector<float> gates(20, 1.0f);
    gates[3] = gates[18] = NAN;
    const auto out = silu(*make(name), gates, 1);
    for (std::size_t i = 0; i < out.size(); ++i) BOOST_TEST(std::isnan(out[i]) == (i == 3 || i == 18));
  }
}

BOOST_AUTO_TEST_CASE(infinities_nans_and_the_largest_inputs_pass_through_a_product) {
  const float kLargest = std::numeric_limits<float>::max();
  for (const auto& name : vector_implementations()) {
    for (const DType dtype : kStorageTypes) {
      const auto kernels = make(name);
      std::vector<char> one(2 * size_of(dtype));
      store_from_f32(1.0f, one.data(), dtype, 0);
      store_from_f32(0.5f, one.data(), dtype, 1);
      const auto weight = kernels->pack({one.data(), dtype, 2, 1, 1}).value();
      for (const float x : {kLargest, -kLargest, INFINITY, -INFINITY, 1e-30f, 0x1.fffffep-100f}) {
        const float allowed = std::abs(x) * (rounds_inputs(name, dtype) ? 0x1p-7f : 0x1p-16f);
        float out[2];
        kernels->linear({&x, 1, 1}, {weight.get()}, {out, 1, 2});
        BOOST_TEST_CONTEXT(name << " " << x) {
          BOOST_TEST((out[0] == x || std::abs(out[0] - x) <= allowed));
          BOOST_TEST((out[1] == x / 2 || std::abs(out[1] - x / 2) <= allowed / 2));
        }
      }
      const float nan = std::bit_cast<float>(0x7f800001u);
      float out[2];
      kernels->linear({&nan, 1, 1}, {weight.get()}, {out, 1, 2});
      BOOST_TEST((std::isnan(out[0]) && std::isnan(out[1])));
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
