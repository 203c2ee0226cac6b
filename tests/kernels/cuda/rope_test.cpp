#include "kernels/cuda/rope.h"

#include <boost/test/unit_test.hpp>
#include <numeric>
#include <optional>

#include "kernels/cpu/reference.h"
#include "tests/kernels/cuda/devices.h"

using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(rope_on_gpus)

// Heads that come out of products, and pages to write to.
struct Heads {
  Heads(std::uint32_t seed, DType dtype) : random(seed) {
    const std::size_t head_dims[] = {2, 8, 20, 33, 64, 80, 128, 256};
    head_dim = head_dims[random.pick(0, std::size(head_dims) - 1)];
    kv_heads = random.pick(1, 3);
    heads = kv_heads * random.pick(1, 6);
    rows = random.pick(1, 12);
    queries.emplace(rows, heads * head_dim, random.pick(0, 3), random);
    keys.emplace(rows, kv_heads * head_dim, random.pick(0, 3), random);
    values.emplace(rows, kv_heads * head_dim, random.pick(0, 3), random);
    if (random.pick(0, 1) == 1) query_norm = random.normals(head_dim);
    if (random.pick(0, 1) == 1) key_norm = random.normals(head_dim);
    for (std::size_t i = random.pick(0, head_dim / 2); i > 0; --i) frequencies.push_back(std::pow(0.8f, float(i)));
    layout = seed % 2 == 0 ? RopeLayout::kHalves : RopeLayout::kInterleaved;
    const std::size_t block_size = random.pick(1, 20);
    pages.emplace(dtype, rows / block_size + 3, block_size, kv_heads, head_dim);
    slots.resize(pages->shape().slots());
    std::iota(slots.begin(), slots.end(), 0u);
    for (std::size_t i = slots.size() - 1; i > 0; --i) std::swap(slots[i], slots[random.pick(0, i)]);
    slots.resize(rows);
    for (std::size_t row = 0; row < rows; ++row) {
      positions.push_back(static_cast<std::uint32_t>(random.pick(0, 200'000)));
    }
  }

  void run_reference(Strided& queries_out, Pages& pages_out) {
    const auto reference = make_reference_kernels();
    // All three side by side as one input, each weight picking its own columns.
    const std::size_t q = heads * head_dim, k = kv_heads * head_dim, cols = q + 2 * k;
    Strided in(rows, cols, 0);
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t i = 0; i < q; ++i) in.view().row(row)[i] = queries->at(row, i);
      for (std::size_t i = 0; i < k; ++i) in.view().row(row)[q + i] = keys->at(row, i);
      for (std::size_t i = 0; i < k; ++i) in.view().row(row)[q + k + i] = values->at(row, i);
    }
    const auto picking = [&](std::size_t first, std::size_t count) {
      std::vector<float> weight(count * cols);
      for (std::size_t i = 0; i < count; ++i) weight[i * cols + first + i] = 1;
      return reference->pack({weight.data(), DType::kF32, count, cols, cols}).value();
    };
    const auto query = picking(0, q), key = picking(q, k), value = picking(q + k, k);
    reference->begin_step({.positions = positions, .slots = slots});
    reference->project_qkv(in.view(), {{query.get()}, {key.get()}, {value.get()}, query_norm, key_norm, kEps},
                           {frequencies, kMagnitude, layout}, queries_out.view(), pages_out.view());
  }

  void run(Gpu& gpu, std::size_t first, std::size_t count, Strided& queries_out, Pages& pages_out) {
    const MatrixOnGpu queries_there(gpu, queries_out.view().rows_from(first, count));
    const MatrixOnGpu keys_there(gpu, keys->view().rows_from(first, count));
    const MatrixOnGpu values_there(gpu, values->view().rows_from(first, count));
    const PagesOnGpu pages_there(gpu, pages_out.view());
    const OnGpu<float> query_norm_there(gpu, query_norm), key_norm_there(gpu, key_norm);
    const OnGpu<float> frequencies_there(gpu, frequencies);
    const OnGpu<std::uint32_t> positions_there(gpu, std::span<const std::uint32_t>(positions).subspan(first, count));
    const OnGpu<std::uint32_t> slots_there(gpu, std::span<const std::uint32_t>(slots).subspan(first, count));
    TROUPE_GPU_CALL(rotate_and_store, gpu.stream(),
                    RotateAndStoreArgs{.queries = queries_there.view(),
                                       .keys = keys_there.view(),
                                       .values = values_there.view(),
                                       .query_norm = query_norm_there.data(),
                                       .key_norm = key_norm_there.data(),
                                       .eps = kEps,
                                       .positions = positions_there.data(),
                                       .slots = slots_there.data(),
                                       .inverse_frequencies = frequencies_there.data(),
                                       .num_frequencies = frequencies.size(),
                                       .magnitude = kMagnitude,
                                       .layout = layout,
                                       .kv = pages_there.view()});
    queries_there.fetch();
    pages_there.fetch();
  }

  static constexpr float kEps = 1e-5f;
  static constexpr float kMagnitude = 1.2f;
  Random random;
  std::size_t head_dim, kv_heads, heads, rows;
  std::optional<Strided> queries, keys, values;
  std::optional<Pages> pages;
  std::vector<float> query_norm, key_norm, frequencies;
  std::vector<std::uint32_t> positions, slots;
  RopeLayout layout;
};

BOOST_AUTO_TEST_CASE(heads_are_normed_turned_and_stored_as_the_reference_does_it) {
  for (const auto& gpu : gpus_to_test()) {
    for (std::uint32_t seed = 0; seed < 60; ++seed) {
      const DType dtype = kPageTypes[seed % std::size(kPageTypes)];
      Heads test(seed, dtype);
      Strided expected = *test.queries, queries = *test.queries;
      Pages expected_pages = *test.pages, pages = *test.pages;
      test.run_reference(expected, expected_pages);
      test.run(*gpu, 0, test.rows, queries, pages);
      BOOST_TEST_CONTEXT(gpu->name() << " seed " << seed << " head_dim " << test.head_dim) {
        BOOST_REQUIRE_LE(largest_difference(queries, expected, test.rows, test.heads * test.head_dim), 1e-4f);
        BOOST_REQUIRE(queries.gaps_untouched());
        pages.compare(expected_pages, [&](float a, float b) {
          // A step of the type where the last bit decides, of numbers up to some ten.
          const float step = dtype == DType::kF32    ? 0
                             : dtype == DType::kF16  ? 0x1p-10f
                             : dtype == DType::kE4M3 ? 0x1p-3f
                                                     : 0x1p-7f;
          BOOST_REQUIRE_LE(std::abs(a - b), 1e-4f + step * std::abs(b) + (dtype == DType::kI8 ? 0.1f : 0));
        });
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(what_was_rounded_before_is_stored_to_the_bit) {
  for (const auto& gpu : gpus_to_test()) {
    for (std::uint32_t seed = 100; seed < 124; ++seed) {
      Heads test(seed, kPageTypes[seed % std::size(kPageTypes)]);
      test.frequencies.clear();  // nothing turns, nothing is normed: the reference has the same numbers to round
      test.key_norm.clear();
      Strided ignored = *test.queries, queries = *test.queries;
      Pages expected = *test.pages, pages = *test.pages;
      test.run_reference(ignored, expected);
      test.run(*gpu, 0, test.rows, queries, pages);
      BOOST_REQUIRE(pages.same_bits(expected));
    }
  }
}

// Of numbers so small that their factor could not be expressed, among them zeros.
BOOST_AUTO_TEST_CASE(the_smallest_keys_are_stored_with_scales_as_the_reference_stores_them) {
  for (const auto& gpu : gpus_to_test()) {
    for (const DType dtype : {DType::kI8, DType::kE4M3}) {
      for (const float largest : {0x1p-149f, 0x1p-126f, 0x1p-118f, 0x1.1p-118f, 0x1p-100f}) {
        Heads test(301, dtype);
        test.frequencies.clear();
        test.key_norm.clear();
        for (std::size_t i = 0; i < test.head_dim; ++i) {
          test.keys->view().row(0)[i] = i % 3 == 0 ? 0 : largest / static_cast<float>(i % 3);
        }
        Strided ignored = *test.queries, queries = *test.queries;
        Pages expected = *test.pages, pages = *test.pages;
        test.run_reference(ignored, expected);
        test.run(*gpu, 0, test.rows, queries, pages);
        BOOST_REQUIRE(pages.same_bits(expected));
        for (std::size_t i = 0; i < test.head_dim; ++i) {
          BOOST_REQUIRE_LE(std::abs(pages.key(test.slots[0], 0, i) - test.keys->at(0, i)), largest / 16 + 0x1p-118f);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_row_has_the_same_bits_alone_and_in_a_batch) {
  for (const auto& gpu : gpus_to_test()) {
    for (std::uint32_t seed = 200; seed < 212; ++seed) {
      Heads test(seed, kPageTypes[seed % std::size(kPageTypes)]);
      Strided together = *test.queries;
      Pages pages = *test.pages;
      test.run(*gpu, 0, test.rows, together, pages);
      Strided alone = *test.queries;
      Pages alone_pages = *test.pages;
      for (std::size_t row = 0; row < test.rows; ++row) test.run(*gpu, row, 1, alone, alone_pages);
      for (std::size_t row = 0; row < test.rows; ++row) BOOST_REQUIRE(alone.row(row) == together.row(row));
      BOOST_REQUIRE(alone_pages.same_bits(pages));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_row_without_a_slot_is_stored_nowhere) {
  for (const auto& gpu : gpus_to_test()) {
    for (std::uint32_t seed = 220; seed < 224; ++seed) {
      Heads test(seed, kPageTypes[seed % std::size(kPageTypes)]);
      Strided expected = *test.queries, queries = *test.queries;
      Pages expected_pages = *test.pages, pages = *test.pages;
      test.run(*gpu, 0, test.rows - 1, expected, expected_pages);
      test.slots.back() = kNoSlot;
      test.run(*gpu, 0, test.rows, queries, pages);
      BOOST_REQUIRE(pages.same_bits(expected_pages));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_key_or_value_that_is_not_finite_stays_visible_in_pages_with_scales) {
  for (const auto& gpu : gpus_to_test()) {
    for (const auto& [dtype, bad] : {std::pair{DType::kI8, INFINITY},
                                     {DType::kI8, -INFINITY},
                                     {DType::kI8, NAN},
                                     {DType::kE4M3, INFINITY},
                                     {DType::kE4M3, -INFINITY},
                                     {DType::kE4M3, NAN}}) {
      Heads test(300, dtype);
      test.frequencies.clear();
      test.key_norm.clear();
      test.keys->view().row(0)[0] = bad;
      test.values->view().row(0)[0] = bad;
      Strided queries = *test.queries;
      Pages pages = *test.pages;
      test.run(*gpu, 0, test.rows, queries, pages);
      for (std::size_t i = 0; i < test.head_dim; ++i) {
        BOOST_REQUIRE(std::isnan(pages.key(test.slots[0], 0, i)));
        BOOST_REQUIRE(std::isnan(pages.value(test.slots[0], 0, i)));
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
