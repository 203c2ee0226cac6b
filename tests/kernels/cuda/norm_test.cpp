#include "kernels/cuda/norm.h"

#include <array>
#include <boost/test/unit_test.hpp>
#include <cstring>
#include <optional>

#include "kernels/cpu/reference.h"
#include "kernels/cuda/linear.h"
#include "tests/kernels/cuda/gpu_weights.h"

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

// The workspace that a norm has filled gives products the bits of one that they fill themselves.
BOOST_AUTO_TEST_CASE(what_a_norm_prepares_is_what_products_make_of_its_result) {
  for (const auto& device : gpus_to_test()) {
    for (std::uint32_t seed = 0; seed < 24; ++seed) {
      // Of each form: int8 by row, blocks, bf16 and bf16 in parts; rows that threads hold, and longer ones.
      const DType dtype = std::array{DType::kInt8, DType::kQ8_0, DType::kBF16, DType::kF32}[seed % 4];
      TestGpu gpu(*device);
      Random random(seed);
      const std::size_t rows = random.pick(1, 4);
      std::size_t cols = seed < 4 ? 32 * random.pick(513, 540) : 32 * random.pick(1, 40);
      if (dtype != DType::kQ8_0) cols += random.pick(0, 31);
      Strided in(rows, cols, 4, random, seed % 3 == 0 ? 1e-4f : 1e3f), addend(rows, cols, 0, random);
      if (seed % 8 >= 4) in.view().row(0)[random.pick(0, cols - 1)] = NAN;
      const auto norm = random.normals(cols);
      const AnyTypeWeight weight(dtype, 20, cols, random);
      const GpuWeight weight_there = upload(gpu, weight.view());
      const std::size_t bytes = linear_workspace_bytes(rows, cols);
      const std::vector<std::byte> old(bytes, std::byte{0x7f});
      std::vector<std::vector<float>> results;
      for (const bool prepares : {false, true}) {
        MatrixF32 sum(gpu.upload(in.view().data, rows * in.view().row_stride), rows, cols, in.view().row_stride);
        const MatrixF32 normed(gpu.room<float>(rows * cols), rows, cols);
        auto* workspace = gpu.upload(old.data(), bytes);
        const InputForm form = input_form(dtype);
        const PreparedNorm prepared = {prepares, form, PreparedLayout(form, rows, cols).at(workspace)};
        const float* const norm_there = gpu.upload(norm.data(), cols);
        if (seed % 2 == 0) {
          TROUPE_GPU_CALL(rms_norm, gpu.stream(), RmsNormArgs{sum, norm_there, kEps, normed, prepared});
        } else {
          const ConstMatrixF32 more(gpu.upload(addend.view().data, rows * cols), rows, cols);
          TROUPE_GPU_CALL(add_rms_norm, gpu.stream(), AddRmsNormArgs{more, sum, norm_there, kEps, normed, prepared});
        }
        LinearCall call = {.in = normed.data, .rows = rows, .cols = cols, .in_stride = cols};
        float* const out = gpu.room<float>(rows * 20);
        call.products[0] = {weight_there, nullptr, out, 20};
        call.num_products = 1;
        call.workspace = workspace;
        call.is_prepared = prepares;
        call.form = form;
        TROUPE_GPU_CALL(linear, gpu.stream(), call);
        results.push_back(gpu.download(normed.data, rows * cols));
        results.push_back(gpu.download(out, rows * 20));
      }
      BOOST_TEST_CONTEXT(device->name() << " seed " << seed << " cols " << cols) {
        const auto same_bits = [](const std::vector<float>& a, const std::vector<float>& b) {
          return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
        };
        BOOST_REQUIRE(same_bits(results[0], results[2]));
        BOOST_REQUIRE(same_bits(results[1], results[3]));
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
