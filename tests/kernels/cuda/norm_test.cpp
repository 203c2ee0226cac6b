#include "kernels/cuda/norm.h"

#include <boost/test/unit_test.hpp>
#include <optional>

#include "kernels/cpu/reference.h"
#include "tests/kernels/cuda/devices.h"

using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(norm_on_gpus)

struct Rows {
  Rows(std::uint32_t seed) : random(seed) {
    rows = random.pick(1, 5);
    cols = seed % 6 == 0 ? random.pick(4097, 20'000) : seed % 2 == 0 ? 4 * random.pick(1, 600) : random.pick(1, 600);
    const std::size_t gap = seed % 4 == 0 ? 4 * random.pick(0, 2) : random.pick(0, 5);
    const float scale = seed % 5 == 0 ? 1e-4f : seed % 5 == 1 ? 1e4f : 1;
    in.emplace(rows, cols, gap, random, scale);
    addend.emplace(rows, cols, gap, random, scale);
    weight = random.normals(cols);
  }
  Random random;
  std::size_t rows, cols;
  std::optional<Strided> in, addend;
  std::vector<float> weight;
};

constexpr float kEps = 1e-6f;

BOOST_AUTO_TEST_CASE(rows_are_normed_as_the_reference_norms_them_alone_and_together) {
  const auto reference = make_reference_kernels();
  for (const auto& gpu : gpus_to_test()) {
    for (std::uint32_t seed = 0; seed < 40; ++seed) {
      Rows test(seed);
      Strided expected(test.rows, test.cols, 1), out(test.rows, test.cols, test.in->view().row_stride - test.cols);
      reference->rms_norm(test.in->view(), test.weight, kEps, expected.view());
      const MatrixOnGpu in(*gpu, test.in->view()), there(*gpu, out.view());
      const OnGpu<float> weight(*gpu, test.weight);
      TROUPE_GPU_CALL(rms_norm, gpu->stream(), RmsNormArgs{in.view(), weight.data(), kEps, there.view()});
      there.fetch();
      BOOST_TEST_CONTEXT(gpu->name() << " seed " << seed << " cols " << test.cols) {
        BOOST_REQUIRE_LE(largest_difference(out, expected, test.rows, test.cols), 1e-5f);
        BOOST_REQUIRE(out.gaps_untouched());
        // In place, one row, at an address where no vector can be loaded.
        const auto last = out.row(test.rows - 1);
        std::vector<float> row = test.in->row(test.rows - 1);
        row.insert(row.begin(), 0.0f);
        const OnGpu<float> shifted(*gpu, row);
        const MatrixF32 alone(shifted.data() + 1, 1, test.cols);
        TROUPE_GPU_CALL(rms_norm, gpu->stream(), RmsNormArgs{alone, weight.data(), kEps, alone});
        shifted.fetch(row.data());
        BOOST_REQUIRE(std::equal(last.begin(), last.end(), row.begin() + 1));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(adding_and_norming_at_once_is_adding_and_then_norming) {
  for (const auto& gpu : gpus_to_test()) {
    for (std::uint32_t seed = 50; seed < 90; ++seed) {
      Rows test(seed);
      const std::size_t gap = test.in->view().row_stride - test.cols;
      Strided expected_sum = *test.in, sum = *test.in;
      Strided expected(test.rows, test.cols, gap), out(test.rows, test.cols, gap);
      for (std::size_t row = 0; row < test.rows; ++row) {
        for (std::size_t col = 0; col < test.cols; ++col)
          expected_sum.view().row(row)[col] += test.addend->at(row, col);
      }
      const MatrixOnGpu addend(*gpu, test.addend->view());
      const OnGpu<float> weight(*gpu, test.weight);
      const MatrixOnGpu fused_sum(*gpu, sum.view()), fused(*gpu, out.view());
      TROUPE_GPU_CALL(add_rms_norm, gpu->stream(),
                      AddRmsNormArgs{addend.view(), fused_sum.view(), weight.data(), kEps, fused.view()});
      fused_sum.fetch();
      fused.fetch();
      Strided plain_sum = *test.in;
      const MatrixOnGpu added(*gpu, plain_sum.view()), normed(*gpu, expected.view());
      TROUPE_GPU_CALL(add, gpu->stream(), AddArgs{addend.view(), added.view()});
      TROUPE_GPU_CALL(rms_norm, gpu->stream(), RmsNormArgs{added.view(), weight.data(), kEps, normed.view()});
      added.fetch();
      normed.fetch();
      BOOST_TEST_CONTEXT(gpu->name() << " seed " << seed << " cols " << test.cols) {
        for (std::size_t row = 0; row < test.rows; ++row) {
          BOOST_REQUIRE(sum.row(row) == expected_sum.row(row));
          BOOST_REQUIRE(plain_sum.row(row) == expected_sum.row(row));
          BOOST_REQUIRE(out.row(row) == expected.row(row));
        }
        BOOST_REQUIRE(sum.gaps_untouched() && plain_sum.gaps_untouched() && out.gaps_untouched());
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
