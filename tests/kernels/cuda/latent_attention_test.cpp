#include "kernels/cuda/latent_attention.h"

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <numeric>
#include <optional>

#include "kernels/cpu/latent_attention.h"
#include "tests/kernels/cuda/attention_on_gpu.h"

using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(latent_attention_on_gpus)

constexpr DType kLatentTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

// One layer's pages, and a batch of sequences whose blocks lie scattered over them.
struct Latents {
  Latents(std::uint32_t seed, DType dtype) : random(seed) {
    const std::pair<std::size_t, std::size_t> sizes[] = {{512, 64}, {512, 64}, {256, 32}, {8, 8}, {72, 40}};
    const std::size_t heads[] = {16, 128, 1, 5, 65};
    std::tie(pages.rank, pages.rope_dim) = sizes[seed % 5];
    pages.dtype = dtype;
    pages.block_size = seed % 3 == 0 ? 64 : random.pick(1, 40);
    shape = {.num_heads = heads[random.pick(0, 4)],
             .num_kv_heads = 1,
             .head_dim = pages.row_size(),
             .scale = 1 / std::sqrt(float(pages.row_size()))};
    row_starts = table_starts = {0};
    for (std::size_t sequence = 0; sequence < 2; ++sequence) {
      // One that is decoded, over several stretches, and one whose prompt goes on.
      const std::size_t context = sequence == 0 ? random.pick(1, seed % 2 == 0 ? 700 : 80) : random.pick(1, 90);
      const std::size_t rows = sequence == 0 ? 1 : random.pick(1, std::min<std::size_t>(context, 9));
      context_lengths.push_back(static_cast<std::uint32_t>(context));
      row_starts.push_back(row_starts.back() + static_cast<std::uint32_t>(rows));
      for (std::size_t i = 0; i * pages.block_size < context; ++i) tables.push_back(0);
      table_starts.push_back(static_cast<std::uint32_t>(tables.size()));
    }
    std::iota(tables.begin(), tables.end(), 0u);
    for (std::size_t i = tables.size() - 1; i > 0; --i) std::swap(tables[i], tables[random.pick(0, i)]);
    pages.num_blocks = tables.size();
    const std::size_t size = pages.num_blocks * pages.block_size * pages.row_size();
    bytes.resize(size * size_of(dtype));
    for (std::size_t i = 0; i < size; ++i) store_from_f32(random.normal(), bytes.data(), dtype, i);
    pages.tokens = bytes.data();
    queries.emplace(row_starts.back(), shape.num_heads * shape.head_dim, 3, random);
    // As the kernel rounds them, so that the rounding of probabilities is what remains.
    const DType rounds = dtype == DType::kF16 ? DType::kF16 : DType::kBF16;
    for (std::size_t row = 0; row < row_starts.back(); ++row) {
      for (std::size_t col = 0; col < queries->view().cols; ++col) {
        float& value = queries->view().row(row)[col];
        store_from_f32(value, &value, rounds, 0);
        value = load_as_f32(&value, rounds, 0);
      }
    }
    if (dtype != DType::kF32) return;
    for (std::size_t i = 0; i < size; ++i) {
      const float value = load_as_f32(bytes.data(), dtype, i);
      store_from_f32(f32_of_bf16(bf16_of_f32(value)), bytes.data(), dtype, i);
    }
  }
  Latents(const Latents&) = delete;
  Latents& operator=(const Latents&) = delete;

  AttentionBatch batch() const { return {row_starts, context_lengths, tables, table_starts}; }

  Random random;
  PagedLatents pages;
  AttentionShape shape;
  std::vector<char> bytes;
  std::vector<std::uint32_t> row_starts, context_lengths, tables, table_starts;
  std::optional<Strided> queries;
};

static Strided attend(Gpu& gpu, Latents& scene, const AttentionBatch& batch, MatrixF32 queries, int multiprocessors,
                      std::size_t shared_bytes) {
  const std::size_t rank = scene.pages.rank;
  Strided out(queries.rows, scene.shape.num_heads * rank, 2);
  const OnGpu<char> tokens(gpu, scene.bytes);
  const WorkOnGpu on_gpu(gpu, batch, scene.shape, latent_attention_tiles(shared_bytes), multiprocessors, queries, rank,
                         out.view());
  PagedLatents pages = scene.pages;
  pages.tokens = tokens.data();
  TROUPE_GPU_CALL(latent_attention, gpu.stream(), LatentAttentionArgs{.work = on_gpu.work(), .pages = pages});
  on_gpu.fetch();
  return out;
}

static Strided attend(Gpu& gpu, Latents& scene, int multiprocessors, std::size_t shared_bytes) {
  return attend(gpu, scene, scene.batch(), scene.queries->view(), multiprocessors, shared_bytes);
}

BOOST_AUTO_TEST_CASE(any_batch_agrees_with_the_reference_within_the_rounding_of_its_operands) {
  for (const auto& gpu : gpus_to_test()) {
    for (std::uint32_t seed = 0; seed < 10; ++seed) {
      const DType dtype = kLatentTypes[seed % 3];
      Latents scene(seed, dtype);
      const std::size_t cols = scene.shape.num_heads * scene.pages.rank, rows = scene.row_starts.back();
      Strided expected(rows, cols, 0);
      reference_latent_attention(scene.queries->view(), scene.pages, scene.batch(), scene.shape, expected.view());
      const Strided out = attend(*gpu, scene, seed % 2 == 0 ? kMany : kFew, kServerSharedBytes);
      BOOST_TEST_CONTEXT(gpu->name() << " seed " << seed << " heads " << scene.shape.num_heads) {
        BOOST_REQUIRE_LE(largest_difference(out, expected, rows, cols), dtype == DType::kF16 ? 2e-3f : 1.6e-2f);
        BOOST_REQUIRE(out.gaps_untouched());
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_row_has_the_same_bits_alone_and_in_a_batch_by_few_lines_and_many_in_one_piece_and_in_several) {
  for (const auto& gpu : gpus_to_test()) {
    std::size_t wide = 0, merged = 0;
    for (std::uint32_t seed = 20; seed < 25; ++seed) {
      Latents scene(seed, kLatentTypes[seed % 3]);
      const AttentionPlan plan =
          WorkOnGpu::plan_of(scene.batch(), scene.shape, latent_attention_tiles(kServerSharedBytes), kMany);
      wide += plan.wide.size();
      merged += plan.merges.size();
      const Strided together = attend(*gpu, scene, kFew, kServerSharedBytes);
      const Strided in_pieces = attend(*gpu, scene, kMany, kServerSharedBytes);
      const Strided by_few_lines = attend(*gpu, scene, kMany, kLeastSharedBytes);
      for (std::size_t sequence = 0; sequence < scene.context_lengths.size(); ++sequence) {
        const std::uint32_t first_row = scene.row_starts[sequence], end_row = scene.row_starts[sequence + 1];
        for (std::uint32_t row = first_row; row < end_row; ++row) {
          BOOST_REQUIRE(same_bits(together.row(row), in_pieces.row(row)));
          BOOST_REQUIRE(same_bits(together.row(row), by_few_lines.row(row)));
          if (row != first_row && row + 1 != end_row) continue;
          const std::uint32_t one_row[] = {0, 1};
          const std::uint32_t context = scene.context_lengths[sequence] - (end_row - 1 - row);
          const AttentionBatch alone{
              one_row, {&context, 1}, scene.tables, std::span(scene.table_starts).subspan(sequence, 2)};
          const Strided out =
              attend(*gpu, scene, alone, scene.queries->view().rows_from(row, 1), kMany, kServerSharedBytes);
          BOOST_TEST_CONTEXT(gpu->name() << " seed " << seed << " row " << row) {
            BOOST_REQUIRE(same_bits(out.row(0), together.row(row)));
          }
        }
      }
    }
    BOOST_TEST(wide > 0u);
    BOOST_TEST(merged > 0u);
  }
}

// What pages hold behind a sequence's last position is of no sequence, or of an earlier one.
BOOST_AUTO_TEST_CASE(nothing_behind_the_last_position_is_looked_at) {
  for (const auto& gpu : gpus_to_test()) {
    for (std::uint32_t seed = 41; seed < 43; ++seed) {
      Latents scene(seed, kLatentTypes[seed % 3]);
      const Strided clean = attend(*gpu, scene, kMany, kServerSharedBytes);
      for (std::size_t sequence = 0; sequence < scene.context_lengths.size(); ++sequence) {
        const std::size_t blocks = scene.table_starts[sequence + 1] - scene.table_starts[sequence];
        for (std::size_t i = scene.context_lengths[sequence]; i < blocks * scene.pages.block_size; ++i) {
          const std::size_t block = scene.tables[scene.table_starts[sequence] + i / scene.pages.block_size];
          const std::size_t slot = block * scene.pages.block_size + i % scene.pages.block_size;
          for (std::size_t j = 0; j < scene.pages.row_size(); ++j) {
            store_from_f32(NAN, scene.bytes.data(), scene.pages.dtype, slot * scene.pages.row_size() + j);
          }
        }
      }
      const Strided out = attend(*gpu, scene, kMany, kServerSharedBytes);
      for (std::size_t row = 0; row < scene.row_starts.back(); ++row) {
        BOOST_REQUIRE(same_bits(out.row(row), clean.row(row)));
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
