#include "kernels/cuda/paged_attention.h"

#include <boost/test/unit_test.hpp>

#include "tests/kernels/attention_scene.h"
#include "tests/kernels/cuda/attention_on_gpu.h"

using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(paged_attention_on_gpus)

static AttentionPlan plan_of(const Scene& scene, const AttentionBatch& batch, int multiprocessors) {
  return WorkOnGpu::plan_of(batch, scene.shape, paged_attention_tiles(scene.shape.head_dim, kServerSharedBytes),
                            multiprocessors);
}

static Strided attend(Gpu& gpu, Scene& scene, const AttentionBatch& batch, MatrixF32 queries, int multiprocessors,
                      std::size_t shared_bytes = kServerSharedBytes) {
  const std::size_t head_dim = scene.shape.head_dim;
  Strided out(queries.rows, queries.cols, 2);
  const PagesOnGpu pages(gpu, scene.kv);
  const WorkOnGpu on_gpu(gpu, batch, scene.shape, paged_attention_tiles(head_dim, shared_bytes), multiprocessors,
                         queries, head_dim, out.view());
  TROUPE_GPU_CALL(paged_attention, gpu.stream(), PagedAttentionArgs{.work = on_gpu.work(), .kv = pages.view()});
  on_gpu.fetch();
  return out;
}

static Strided attend(Gpu& gpu, Scene& scene, int multiprocessors, std::size_t shared_bytes = kServerSharedBytes) {
  return attend(gpu, scene, scene.batch(), scene.queries->view(), multiprocessors, shared_bytes);
}

// Queries as the kernel rounds them, so that the rounding of probabilities is what remains.
static void round_queries(Scene& scene) {
  const bool is_f16 = scene.kv.dtype == DType::kF16;
  const MatrixF32 queries = scene.queries->view();
  for (std::size_t row = 0; row < queries.rows; ++row) {
    for (std::size_t col = 0; col < queries.cols; ++col) {
      float& value = queries.row(row)[col];
      value = is_f16 ? f32_of_f16(f16_of_f32(value)) : f32_of_bf16(bf16_of_f32(value));
    }
  }
}

BOOST_AUTO_TEST_CASE(any_batch_agrees_with_a_dense_softmax_within_the_rounding_of_its_operands) {
  for (const auto& gpu : gpus_to_test()) {
    for (std::uint32_t seed = 0; seed < 42; ++seed) {
      const DType dtype = kPageTypes[seed % std::size(kPageTypes)];
      Scene scene(seed, dtype);
      round_queries(scene);
      const Strided expected = dense_attention(scene);
      const Strided out = attend(*gpu, scene, seed % 2 == 0 ? kFew : kMany);
      BOOST_TEST_CONTEXT(gpu->name() << " seed " << seed << " head_dim " << scene.shape.head_dim) {
        const float tolerance = dtype == DType::kF16 ? 2e-3f : 1.6e-2f;
        BOOST_REQUIRE_LE(largest_difference(out, expected, scene.rows(), scene.queries->view().cols), tolerance);
        BOOST_REQUIRE(out.gaps_untouched());
      }
    }
  }
}

// Scores of some hundred: all the weight lies on one or two positions, and the running maximum jumps.
BOOST_AUTO_TEST_CASE(steep_scores_neither_overflow_nor_vanish) {
  for (const auto& gpu : gpus_to_test()) {
    for (std::uint32_t seed = 200; seed < 212; ++seed) {
      Scene scene(seed, seed % 2 == 0 ? DType::kF16 : DType::kI8, 100);
      round_queries(scene);
      const Strided expected = dense_attention(scene);
      const Strided out = attend(*gpu, scene, seed % 3 == 0 ? kFew : kMany);
      BOOST_TEST_CONTEXT(gpu->name() << " seed " << seed) {
        BOOST_REQUIRE_LE(largest_difference(out, expected, scene.rows(), scene.queries->view().cols), 3e-2f);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_row_has_the_same_bits_alone_and_in_a_chunk_in_one_piece_and_in_several) {
  for (const auto& gpu : gpus_to_test()) {
    std::size_t wide = 0, merged = 0;
    for (std::uint32_t seed = 100; seed < 118; ++seed) {
      Scene scene(seed, kPageTypes[seed % std::size(kPageTypes)]);
      const AttentionPlan plan = plan_of(scene, scene.batch(), kMany);
      wide += plan.wide.size();
      merged += plan.merges.size();
      const Strided together = attend(*gpu, scene, kFew);
      const Strided in_pieces = attend(*gpu, scene, kMany);
      for (std::size_t sequence = 0; sequence < scene.context_lengths.size(); ++sequence) {
        const std::uint32_t first_row = scene.row_starts[sequence], end_row = scene.row_starts[sequence + 1];
        for (std::uint32_t row = first_row; row < end_row; ++row) {
          BOOST_REQUIRE(same_bits(together.row(row), in_pieces.row(row)));
          if ((row - first_row) % 17 != 0 && row + 1 != end_row) continue;
          const std::uint32_t one_row[] = {0, 1};
          const std::uint32_t context = scene.context_lengths[sequence] - (end_row - 1 - row);
          const AttentionBatch alone{
              one_row, {&context, 1}, scene.block_tables, std::span(scene.block_table_starts).subspan(sequence, 2)};
          for (const int multiprocessors : {kFew, kMany}) {
            const Strided out = attend(*gpu, scene, alone, scene.queries->view().rows_from(row, 1), multiprocessors);
            BOOST_TEST_CONTEXT(gpu->name() << " seed " << seed << " row " << row) {
              BOOST_REQUIRE(same_bits(out.row(0), together.row(row)));
            }
          }
        }
      }
    }
    BOOST_TEST(wide > 0u);
    BOOST_TEST(merged > 0u);
  }
}

BOOST_AUTO_TEST_CASE(wide_heads_have_the_same_bits_on_gpus_with_little_shared_memory) {
  for (const auto& gpu : gpus_to_test()) {
    std::size_t compared = 0;
    for (std::uint32_t seed = 500; compared < 2; ++seed) {
      Scene scene(seed, compared == 0 ? DType::kF16 : DType::kE4M3);
      const bool is_small = scene.block_tables.size() * scene.kv.block_size < 400 && scene.kv.num_kv_heads == 1;
      if (!is_small || scene.shape.head_dim <= 128 || plan_of(scene, scene.batch(), kFew).wide.empty()) continue;
      const Strided ample = attend(*gpu, scene, kFew), little = attend(*gpu, scene, kFew, kLeastSharedBytes);
      for (std::size_t row = 0; row < scene.rows(); ++row) BOOST_REQUIRE(same_bits(ample.row(row), little.row(row)));
      ++compared;
    }
  }
}

// The one value that a query sees is what it gets, as far as BF16 has it: every number of E4M3.
BOOST_AUTO_TEST_CASE(every_byte_of_e4m3_pages_is_read_as_the_cpu_reads_it) {
  for (const auto& gpu : gpus_to_test()) {
    for (std::uint32_t seed = 0; seed < 2; ++seed) {
      Scene scene(600, DType::kE4M3);
      scene.shape = {.num_heads = 1, .num_kv_heads = 1, .head_dim = seed == 0 ? 256u : 255u, .scale = 1};
      scene.pages.emplace(DType::kE4M3, 1, 8, 1, scene.shape.head_dim);
      scene.kv = scene.pages->view();
      for (std::size_t i = 0; i < scene.shape.head_dim; ++i) {
        static_cast<std::uint8_t*>(scene.kv.values)[i] = static_cast<std::uint8_t>(i);
      }
      scene.kv.key_scales[0] = scene.kv.value_scales[0] = 1;
      const std::uint32_t starts[] = {0, 1}, context = 1, table = 0;
      std::vector<float> query(scene.shape.head_dim);
      const Strided out = attend(*gpu, scene, {starts, {&context, 1}, {&table, 1}, starts},
                                 {query.data(), 1, scene.shape.head_dim}, kFew);
      for (std::size_t i = 0; i < scene.shape.head_dim; ++i) {
        const float expected = f32_of_e4m3(static_cast<std::uint8_t>(i));
        BOOST_REQUIRE(std::isnan(expected) ? std::isnan(out.at(0, i)) : out.at(0, i) == expected);
      }
    }
  }
}

// What pages hold behind a sequence's last position is of no sequence, or of an earlier one.
BOOST_AUTO_TEST_CASE(nothing_behind_the_last_position_is_looked_at) {
  for (const auto& gpu : gpus_to_test()) {
    for (std::uint32_t seed = 300; seed < 308; ++seed) {
      Scene scene(seed, kPageTypes[seed % std::size(kPageTypes)]);
      const Strided clean = attend(*gpu, scene, kMany);
      const std::vector<float> bad(scene.kv.head_dim, NAN);
      for (std::size_t sequence = 0; sequence < scene.context_lengths.size(); ++sequence) {
        const std::size_t blocks = scene.block_table_starts[sequence + 1] - scene.block_table_starts[sequence];
        for (std::size_t i = scene.context_lengths[sequence]; i < blocks * scene.kv.block_size; ++i) {
          for (std::size_t head = 0; head < scene.kv.num_kv_heads; ++head) {
            store_key(bad.data(), scene.kv, scene.slot_of(sequence, i), head);
            store_value(bad.data(), scene.kv, scene.slot_of(sequence, i), head);
          }
        }
      }
      const Strided out = attend(*gpu, scene, kMany);
      for (std::size_t row = 0; row < scene.rows(); ++row) BOOST_REQUIRE(same_bits(out.row(row), clean.row(row)));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_key_or_value_that_is_not_finite_shows_in_the_rows_that_see_it) {
  for (const auto& gpu : gpus_to_test()) {
    for (const DType dtype : kPageTypes) {
      Scene scene(401, dtype);
      scene.shape.sliding_window = 0;
      const std::vector<float> bad(scene.kv.head_dim, NAN);
      store_value(bad.data(), scene.kv, scene.slot_of(0, 0), 0);
      const Strided out = attend(*gpu, scene, kMany);
      for (std::size_t i = 0; i < scene.kv.head_dim; ++i) BOOST_REQUIRE(std::isnan(out.at(0, i)));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_plan_covers_every_row_and_every_position_that_it_sees_once) {
  for (std::uint32_t seed = 0; seed < 60; ++seed) {
    const Scene scene(seed, DType::kF16);
    for (const int multiprocessors : {kFew, kMany}) {
      const AttentionPlan plan = plan_of(scene, scene.batch(), multiprocessors);
      std::vector<std::vector<AttentionItem>> of_row(scene.rows());
      for (const auto* items : {&plan.wide, &plan.narrow}) {
        for (const AttentionItem& item : *items) {
          BOOST_REQUIRE_EQUAL(item.first_position % 64, 0u);
          for (std::uint32_t row = 0; row < item.rows; ++row) of_row[item.first_row + row].push_back(item);
        }
      }
      for (std::size_t sequence = 0; sequence < scene.context_lengths.size(); ++sequence) {
        for (std::uint32_t row = scene.row_starts[sequence]; row < scene.row_starts[sequence + 1]; ++row) {
          const std::size_t end = scene.context_lengths[sequence] - (scene.row_starts[sequence + 1] - 1 - row);
          const std::size_t window = scene.shape.sliding_window;
          const std::size_t begin = window != 0 && end > window ? end - window : 0;
          const auto& items = of_row[row];
          BOOST_REQUIRE(!items.empty());
          BOOST_REQUIRE_LE(items.front().first_position, begin);
          BOOST_REQUIRE_GE(items.back().end_position, end);
          for (std::size_t i = 0; i < items.size(); ++i) {
            BOOST_REQUIRE_EQUAL(items[i].table_start, scene.block_table_starts[sequence]);
            BOOST_REQUIRE_EQUAL(items[i].first_end + row - items[i].first_row, end);
            BOOST_REQUIRE_EQUAL(items[i].piece == AttentionItem::kWhole, items.size() == 1);
            if (i > 0) BOOST_REQUIRE_EQUAL(items[i].first_position, items[i - 1].end_position);
            if (i > 0) BOOST_REQUIRE_EQUAL(items[i].piece, items[i - 1].piece + items[i].rows);
          }
        }
      }
      for (const AttentionMerge& merge : plan.merges) {
        const auto& items = of_row[merge.first_row];
        BOOST_REQUIRE_EQUAL(merge.stretches, items.size());
        BOOST_REQUIRE_EQUAL(merge.first_piece, items.front().piece);
        BOOST_REQUIRE_EQUAL(merge.rows, items.front().rows);
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
