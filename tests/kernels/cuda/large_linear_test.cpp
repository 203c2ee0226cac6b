#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>

#include "kernels/cuda/bf16_rows.h"
#include "kernels/cuda/cublaslt.h"
#include "tests/kernels/any_weight.h"
#include "tests/kernels/cuda/test_gpu.h"

using namespace troupe;
using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(gpu_large_linear)

GpuWeight upload(TestGpu& gpu, const WeightView& weight) {
  std::vector<std::byte> image(gpu_image_bytes(weight.dtype, weight.rows, weight.cols));
  pack_for_gpu(weight, image);
  return {gpu.upload(image.data(), image.size()), weight.dtype, weight.rows, weight.cols};
}

// A weight of any type and what it stands for.
struct AnyTypeWeight {
  AnyTypeWeight(DType dtype, std::size_t rows, std::size_t cols, Random& random) {
    if (is_quantised(dtype)) {
      quantised = std::make_unique<AnyWeight>(dtype, rows, cols, 0, random);
    } else {
      floats = std::make_unique<Stored>(dtype, rows, cols, 2, random);
    }
    values.resize(rows * cols);
    for (std::size_t row = 0; row < rows; ++row) {
      if (quantised) {
        dequantize_row(quantised->view(), row, &values[row * cols]);
      } else {
        for (std::size_t col = 0; col < cols; ++col) values[row * cols + col] = floats->at(row, col);
      }
    }
  }
  const WeightView& view() const { return quantised ? quantised->view() : floats->view(); }

  std::unique_ptr<AnyWeight> quantised;
  std::unique_ptr<Stored> floats;
  std::vector<float> values;  // (rows, cols)
};

constexpr DType kTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ5_0,
                            DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kInt8, DType::kInt4};

BOOST_AUTO_TEST_CASE(unpacked_weights_are_what_they_stand_for_rounded) {
  Random random(1);
  for (const auto& device : gpus_to_test()) {
    for (int round = 0; round < 44; ++round) {
      TestGpu gpu(*device);
      const DType dtype = kTypes[round % 11];
      const std::size_t rows = random.pick(1, 50),
                        cols = is_quantised(dtype) ? pick_cols(dtype, random) : random.pick(1, 500);
      const AnyTypeWeight weight(dtype, rows, cols, random);
      const std::size_t stride = cols + random.pick(0, 9);
      const std::vector<std::uint16_t> untouched(rows * stride, 0x1234);
      UnpackCall call{upload(gpu, weight.view()), gpu.upload(untouched.data(), untouched.size()), stride};
      TROUPE_GPU_CALL(unpack_weight, gpu.stream(), call);
      const auto out = gpu.download(call.out, rows * stride);
      for (std::size_t i = 0; i < out.size(); ++i) {
        const std::size_t row = i / stride, col = i % stride;
        const std::uint16_t expected = col < cols ? bf16_of_f32(weight.values[row * cols + col]) : 0x1234;
        BOOST_REQUIRE_EQUAL(f32_of_bf16(out[i]), f32_of_bf16(expected));
      }
    }
  }
}

// In place of the library, on an emulated GPU, whose memory is the host's.
class HostProducts final : public CublasLt {
 public:
  Result<void> multiply(Stream, const Bf16Product& p, std::byte* workspace) override {
    std::memset(workspace, 0xff, kWorkspaceBytes);
    BOOST_REQUIRE(p.in_stride % 8 == 0 && p.weight_stride % 8 == 0);
    for (std::size_t row = 0; row < p.rows; ++row) {
      for (std::size_t out = 0; out < p.outs; ++out) {
        double sum = p.bias != nullptr ? p.bias[out] : 0;
        for (std::size_t col = 0; col < p.cols; ++col) {
          sum +=
              double{f32_of_bf16(p.in[row * p.in_stride + col])} * f32_of_bf16(p.weight[out * p.weight_stride + col]);
        }
        p.out[row * p.out_stride + out] = static_cast<float>(sum);
      }
    }
    return {};
  }
};

// Three products, among them a SwiGLU, are what rounded inputs and weights give.
void require_products(TestGpu& gpu, CublasLt& library, DType dtype, Random& random) {
  const std::size_t rows = random.pick(1, 70),
                    cols = is_quantised(dtype) ? pick_cols(dtype, random) : random.pick(1, 300);
  const std::size_t outs = random.pick(1, 80), stride = outs + random.pick(0, 3);
  Strided in(rows, cols, random.pick(0, 3), random, 0.1f);
  const AnyTypeWeight plain(dtype, outs, cols, random), gate(dtype, outs, cols, random), up(dtype, outs, cols, random);
  const auto bias = random.normals(outs);
  LinearCall call;
  call.in = gpu.upload(in.view().data, rows * in.view().row_stride);
  call.rows = rows;
  call.cols = cols;
  call.in_stride = in.view().row_stride;
  auto* out = gpu.room<float>(rows * stride);
  auto* gated = gpu.room<float>(rows * stride);
  call.products[0] = {upload(gpu, plain.view()), gpu.upload(bias.data(), outs), out, stride};
  call.products[1] = {upload(gpu, gate.view()), gpu.upload(bias.data(), outs), gated, stride, Epilogue::kSilu};
  call.products[2] = {upload(gpu, up.view()), nullptr, gated, stride, Epilogue::kMultiply};
  call.num_products = 3;
  auto* workspace = gpu.room<std::byte>(large_linear_workspace_bytes(rows, cols, outs));
  const auto done = large_linear(library, gpu.stream(), call, workspace);
  BOOST_REQUIRE_MESSAGE(done.ok(), (done.ok() ? std::string() : done.error().message));
  const auto products = gpu.download(out, rows * stride), swiglu = gpu.download(gated, rows * stride);
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t feature = 0; feature < outs; ++feature) {
      double magnitude[3] = {};
      const auto sum = [&](const AnyTypeWeight& weight, double start, double& largest) {
        for (std::size_t col = 0; col < cols; ++col) {
          const double term = double{f32_of_bf16(bf16_of_f32(in.at(row, col)))} *
                              f32_of_bf16(bf16_of_f32(weight.values[feature * cols + col]));
          start += term;
          largest += std::abs(term);
        }
        return start;
      };
      const double expected = sum(plain, bias[feature], magnitude[0]);
      BOOST_REQUIRE_LE(std::abs(products[row * stride + feature] - expected), 1e-5 * (magnitude[0] + 1));
      const double of_gate = sum(gate, bias[feature], magnitude[1]), of_up = sum(up, 0, magnitude[2]);
      BOOST_REQUIRE_LE(std::abs(swiglu[row * stride + feature] - of_gate / (1 + std::exp(-of_gate)) * of_up),
                       1e-5 * (magnitude[1] + 1) * (magnitude[2] + 1));
    }
  }
}

BOOST_AUTO_TEST_CASE(products_through_a_library_are_those_of_rounded_inputs_and_weights) {
  Random random(2);
  const auto device = open_emulated_gpu();
  HostProducts library;
  for (const DType dtype : kTypes) {
    TestGpu gpu(*device);
    require_products(gpu, library, dtype, random);
  }
}

// With a GPU, the library itself; without, the reason.
BOOST_AUTO_TEST_CASE(cublaslt_multiplies_or_says_why_not) {
  Random random(3);
  const auto device = open_gpu(0);
  auto library = open_cublaslt();
  if (!library.ok()) {
    BOOST_TEST(library.error().message.find(": ") != std::string::npos);
    BOOST_TEST_MESSAGE(library.error().message);
    return;
  }
  BOOST_REQUIRE_MESSAGE(device.ok(), "a library that starts has a GPU");
  for (const DType dtype : kTypes) {
    TestGpu gpu(*device.value());
    require_products(gpu, **library, dtype, random);
  }
}

BOOST_AUTO_TEST_SUITE_END()
