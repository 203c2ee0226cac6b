#include "kernels/cuda/linear.h"

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <numeric>

#include "tests/kernels/cuda/gpu_weights.h"

using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(gpu_linear)

// A matrix on the device, with gaps between its rows.
class Rows {
 public:
  Rows(TestGpu& gpu, std::size_t rows, std::size_t cols, std::size_t gap)
      : gpu_(gpu), rows_(rows), cols_(cols), stride_(cols + gap) {
    const std::vector<float> untouched(rows * stride_, Strided::kUntouched);
    data_ = gpu.upload(untouched.data(), untouched.size());
  }
  Rows(TestGpu& gpu, Strided& from)
      : gpu_(gpu), rows_(from.view().rows), cols_(from.view().cols), stride_(from.view().row_stride) {
    data_ = gpu.upload(from.view().data, rows_ * stride_);
  }

  float* data() const { return data_; }
  std::size_t stride() const { return stride_; }
  // The rows without what lies between them, which must be untouched.
  std::vector<float> values() {
    const std::vector<float> all = gpu_.download(data_, rows_ * stride_);
    std::vector<float> values;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (i % stride_ < cols_) {
        values.push_back(all[i]);
      } else {
        BOOST_REQUIRE_EQUAL(all[i], Strided::kUntouched);
      }
    }
    return values;
  }

 private:
  TestGpu& gpu_;
  std::size_t rows_;
  std::size_t cols_;
  std::size_t stride_;
  float* data_;
};

LinearCall call_of(TestGpu& gpu, Strided& in) {
  const auto view = in.view();
  LinearCall call;
  call.in = Rows(gpu, in).data();
  call.rows = view.rows;
  call.cols = view.cols;
  call.in_stride = view.row_stride;
  call.workspace = gpu.room<std::byte>(linear_workspace_bytes(view.rows, view.cols));
  return call;
}

// in * weight^T + bias.
std::vector<float> product(TestGpu& gpu, Strided& in, const GpuWeight& weight, const std::vector<float>& bias,
                           std::size_t gap = 0) {
  LinearCall call = call_of(gpu, in);
  Rows out(gpu, call.rows, weight.rows, gap);
  call.products[0] = {weight, bias.empty() ? nullptr : gpu.upload(bias.data(), bias.size()), out.data(), out.stride()};
  call.num_products = 1;
  TROUPE_GPU_CALL(linear, gpu.stream(), call);
  return out.values();
}

std::size_t segment_inputs(DType dtype, std::size_t cols) {
  const std::size_t group = dtype == DType::kF32 ? 64 : is_quantised(dtype) ? 256 : 128;
  return ((cols + group - 1) / group + 15) / 16 * group;
}

BOOST_AUTO_TEST_CASE(quantised_products_have_the_bits_that_the_formula_gives) {
  Random random(1);
  for (const auto& device : gpus_to_test()) {
    for (int round = 0; round < 80; ++round) {
      TestGpu gpu(*device);
      const DType dtype = kFormats[round % 8];
      const bool extreme = round % 5 == 4;
      const std::size_t rows = round % 4 == 3 ? random.pick(33, 80) : random.pick(1, 32);
      const std::size_t cols = round % 10 == 9 ? 4352 + 256 * random.pick(0, 3) : pick_cols(dtype, random);
      const std::size_t outs = random.pick(1, 50);
      const std::size_t gap = block_elements(dtype) * random.pick(0, 2);
      const AnyWeight weight(dtype, outs, cols, gap, random, extreme);
      Strided in(rows, cols, random.pick(0, 5), random, round % 3 == 0 ? 1e-20f : round % 3 == 1 ? 1.0f : 1e15f);
      const auto bias = round % 2 == 0 ? random.normals(outs) : std::vector<float>();
      const auto out = product(gpu, in, upload(gpu, weight.view()), bias, random.pick(0, 5));
      BOOST_TEST_CONTEXT("format " << int(dtype) << " rows " << rows << " cols " << cols << " outs " << outs) {
        for (std::size_t row = 0; row < rows; ++row) {
          for (std::size_t feature = 0; feature < outs; ++feature) {
            const float expected = by_formula(weight.view(), feature, in.view().row(row),
                                              bias.empty() ? nullptr : bias.data(), segment_inputs(dtype, cols));
            BOOST_REQUIRE_EQUAL(out[row * outs + feature], expected);
          }
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(inputs_that_are_not_numbers_count_as_nothing_in_quantised_products) {
  Random random(2);
  for (const auto& device : gpus_to_test()) {
    TestGpu gpu(*device);
    const AnyWeight weight(DType::kQ8_0, 20, 128, 0, random);
    Strided in(2, 128, 0, random);
    Strided clean(in);
    in.view().row(0)[40] = NAN;
    clean.view().row(0)[40] = 0;
    in.view().row(1)[3] = INFINITY;  // its block cannot be expressed
    for (std::size_t i = 0; i < 32; ++i) clean.view().row(1)[i] = 0;
    const GpuWeight image = upload(gpu, weight.view());
    BOOST_TEST(product(gpu, in, image, {}) == product(gpu, clean, image, {}), boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(float_products_are_those_of_inputs_rounded_to_bf16) {
  Random random(3);
  for (const auto& device : gpus_to_test()) {
    for (int round = 0; round < 48; ++round) {
      TestGpu gpu(*device);
      const DType dtype = kStorageTypes[round % 3];
      const std::size_t rows = round % 4 == 3 ? random.pick(33, 70) : random.pick(1, 32);
      const std::size_t cols = round % 8 == 7 ? random.pick(2200, 2500) : random.pick(1, 500);
      const std::size_t outs = random.pick(1, 50);
      const Stored weight(dtype, outs, cols, random.pick(0, 3), random);
      Strided in(rows, cols, random.pick(0, 5), random, round % 2 == 0 ? 1.0f : 1e10f);
      const auto bias = random.normals(outs);
      const auto out = product(gpu, in, upload(gpu, weight.view()), bias, random.pick(0, 5));
      for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t feature = 0; feature < outs; ++feature) {
          double expected = bias[feature], magnitude = std::abs(bias[feature]);
          for (std::size_t col = 0; col < cols; ++col) {
            const float input = in.view().row(row)[col];
            const double term =
                double{dtype == DType::kF32 ? input : f32_of_bf16(bf16_of_f32(input))} * weight.at(feature, col);
            expected += term;
            magnitude += std::abs(term);
          }
          const double allowed = magnitude * (dtype == DType::kF32 ? 0x1p-15 : 1e-5);
          BOOST_REQUIRE_LE(std::abs(out[row * outs + feature] - expected), allowed);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(a_row_has_the_same_bits_alone_and_in_a_batch_of_any_size) {
  Random random(4);
  for (const auto& device : gpus_to_test()) {
    for (const DType dtype : kWeightTypes) {
      TestGpu gpu(*device);
      // Several segments of several groups.
      const std::size_t cols = 4352, outs = 20;
      const GpuWeight weight = upload(gpu, AnyTypeWeight(dtype, outs, cols, random).view());
      Strided in(40, cols, 3, random);
      const auto all = product(gpu, in, weight, {});
      for (const std::size_t count : {1, 7, 9, 32, 33}) {
        const std::size_t first = random.pick(0, 40 - count);
        Strided some(count, cols, 0);
        for (std::size_t row = 0; row < count; ++row) {
          std::copy_n(in.view().row(first + row), cols, some.view().row(row));
        }
        const auto part = product(gpu, some, weight, {});
        BOOST_REQUIRE(std::equal(part.begin(), part.end(), all.begin() + static_cast<std::ptrdiff_t>(first * outs)));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(products_of_one_call_are_those_of_each_alone) {
  Random random(5);
  for (const auto& device : gpus_to_test()) {
    for (int round = 0; round < 12; ++round) {
      TestGpu gpu(*device);
      const std::size_t rows = round % 3 == 2 ? 40 : random.pick(1, 9), cols = 512;
      Strided in(rows, cols, 0, random);
      LinearCall call = call_of(gpu, in);
      std::vector<std::unique_ptr<AnyWeight>> weights;
      std::vector<Rows> outs;
      std::vector<std::vector<float>> biases;
      for (std::size_t i = 0; i < kMostProducts; ++i) {
        const DType dtype = round % 2 == 0 ? kFormats[round / 2] : kFormats[random.pick(0, 7)];
        weights.push_back(std::make_unique<AnyWeight>(dtype, random.pick(1, 200), cols, 0, random));
        biases.push_back(i == 1 ? std::vector<float>() : random.normals(weights.back()->view().rows));
        outs.emplace_back(gpu, rows, weights.back()->view().rows, i);
        call.products[i] = {upload(gpu, weights[i]->view()),
                            i == 1 ? nullptr : gpu.upload(biases[i].data(), biases[i].size()), outs[i].data(),
                            outs[i].stride()};
      }
      call.num_products = kMostProducts;
      TROUPE_GPU_CALL(linear, gpu.stream(), call);
      for (std::size_t i = 0; i < kMostProducts; ++i) {
        BOOST_REQUIRE(outs[i].values() == product(gpu, in, call.products[i].weight, biases[i]));
      }
    }
  }
}

// SwiGLU of what the products alone give.
std::vector<float> gated(const std::vector<float>& gate, const std::vector<float>& up) {
  std::vector<float> out(gate.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = static_cast<float>(gate[i] / (1 + std::exp(-double{gate[i]})) * up[i]);
  }
  return out;
}

void require_close(const std::vector<float>& out, const std::vector<float>& expected) {
  BOOST_REQUIRE_EQUAL(out.size(), expected.size());
  for (std::size_t i = 0; i < out.size(); ++i) {
    BOOST_REQUIRE_LE(std::abs(out[i] - expected[i]), 2e-6f * std::abs(expected[i]) + 1e-30f);
  }
}

BOOST_AUTO_TEST_CASE(swiglu_multiplies_up_with_the_silu_of_gate_whatever_their_types) {
  Random random(6);
  for (const auto& device : gpus_to_test()) {
    for (int round = 0; round < 12; ++round) {
      TestGpu gpu(*device);
      const std::size_t rows = round % 3 == 2 ? random.pick(33, 80) : random.pick(1, 12), cols = 256;
      const std::size_t outs = random.pick(1, 300);
      Strided in(rows, cols, 0, random, 10);
      const DType first = kFormats[round % 8], second = round % 2 == 0 ? first : kFormats[(round + 3) % 8];
      const AnyWeight gate(first, outs, cols, 0, random), up(second, outs, cols, 0, random);
      const GpuWeight gate_image = upload(gpu, gate.view()), up_image = upload(gpu, up.view());
      const auto bias = random.normals(outs);
      LinearCall call = call_of(gpu, in);
      Rows out(gpu, rows, outs, 3);
      call.products[0] = {gate_image, gpu.upload(bias.data(), outs), out.data(), out.stride(), Epilogue::kSilu};
      call.products[1] = {up_image, nullptr, out.data(), out.stride(), Epilogue::kMultiply};
      call.num_products = 2;
      TROUPE_GPU_CALL(linear, gpu.stream(), call);
      require_close(out.values(), gated(product(gpu, in, gate_image, bias), product(gpu, in, up_image, {})));
    }
  }
}

BOOST_AUTO_TEST_CASE(experts_multiply_their_own_rows_to_the_bits_of_a_product_alone) {
  Random random(7);
  for (const auto& device : gpus_to_test()) {
    for (int round = 0; round < 12; ++round) {
      TestGpu gpu(*device);
      const std::size_t num_experts = random.pick(1, 6), cols = 256, outs = random.pick(1, 100);
      const DType dtype = kFormats[random.pick(0, 7)];
      std::vector<std::uint32_t> starts = {0};
      for (std::size_t i = 0; i < num_experts; ++i) {
        const std::size_t most = round % 3 == 2 ? 90 : 12;
        starts.push_back(starts.back() + static_cast<std::uint32_t>(random.pick(0, 2) == 0 ? 0 : random.pick(1, most)));
      }
      if (starts.back() == 0) starts.back() = 1;
      const std::size_t rows = starts.back();
      Strided in(rows, cols, 0, random);
      std::vector<std::unique_ptr<AnyWeight>> weights;
      std::vector<GpuWeight> gates, ups;
      std::vector<const std::byte*> gate_images, up_images;
      for (std::size_t i = 0; i < 2 * num_experts; ++i) {
        weights.push_back(std::make_unique<AnyWeight>(dtype, outs, cols, 0, random));
        (i % 2 == 0 ? gates : ups).push_back(upload(gpu, weights.back()->view()));
        (i % 2 == 0 ? gate_images : up_images).push_back((i % 2 == 0 ? gates : ups).back().image);
      }
      // In some rounds the rows lie backwards.
      std::vector<std::uint32_t> row_of(rows);
      for (std::size_t row = 0; row < rows; ++row) row_of[row] = static_cast<std::uint32_t>(rows - 1 - row);
      Strided backwards(rows, cols, 0);
      for (std::size_t row = 0; row < rows; ++row)
        std::copy_n(in.view().row(row), cols, backwards.view().row(row_of[row]));
      const bool gathers = round % 4 < 2;
      Rows out(gpu, rows, outs, 1);
      ExpertsCall call;
      call.in = Rows(gpu, gathers ? backwards : in).data();
      call.row_of = gathers ? gpu.upload(row_of.data(), rows) : nullptr;
      call.rows = rows;
      call.cols = call.in_stride = cols;
      call.starts = gpu.upload(starts.data(), starts.size());
      call.num_experts = num_experts;
      call.gate = gpu.upload(gate_images.data(), num_experts);
      call.up = round % 2 == 0 ? gpu.upload(up_images.data(), num_experts) : nullptr;
      call.dtype = dtype;
      call.outs = outs;
      call.out = out.data();
      call.out_stride = out.stride();
      call.workspace = gpu.room<std::byte>(linear_workspace_bytes(rows, cols));
      TROUPE_GPU_CALL(experts_linear, gpu.stream(), call);
      const auto values = out.values();
      for (std::size_t expert = 0; expert < num_experts; ++expert) {
        const std::size_t count = starts[expert + 1] - starts[expert];
        if (count == 0) continue;
        Strided part(count, cols, 0);
        for (std::size_t row = 0; row < count; ++row) {
          std::copy_n(in.view().row(starts[expert] + row), cols, part.view().row(row));
        }
        const std::vector<float> of_expert(values.begin() + static_cast<std::ptrdiff_t>(starts[expert] * outs),
                                           values.begin() + static_cast<std::ptrdiff_t>(starts[expert + 1] * outs));
        const auto gate = product(gpu, part, gates[expert], {});
        if (call.up == nullptr) {
          BOOST_REQUIRE(of_expert == gate);
        } else {
          require_close(of_expert, gated(gate, product(gpu, part, ups[expert], {})));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
