#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>

#include "kernels/cpu/e4m3.h"
#include "kernels/cuda/bf16_rows.h"
#include "kernels/cuda/cublaslt.h"
#include "tests/kernels/cuda/gpu_weights.h"
#include "tests/kernels/e4m3_numbers.h"

using namespace troupe;
using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(gpu_large_linear)

BOOST_AUTO_TEST_CASE(unpacked_weights_are_what_they_stand_for_rounded) {
  Random random(1);
  for (const auto& device : gpus_to_test()) {
    for (int round = 0; round < 44; ++round) {
      TestGpu gpu(*device);
      const DType dtype = kWeightTypes[round % 11];
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
        const std::uint16_t expected = col < cols ? bf16_of_f32(weight.at(row, col)) : 0x1234;
        BOOST_REQUIRE_EQUAL(f32_of_bf16(out[i]), f32_of_bf16(expected));
      }
    }
  }
}

// In place of the library, on an emulated GPU, whose memory is the host's.
class HostProducts final : public CublasLt {
 public:
  Result<void> multiply(Stream, const LibraryProduct& p, std::byte* workspace) override {
    std::memset(workspace, 0xff, kWorkspaceBytes);
    const auto bytes = size_of(p.dtype);
    BOOST_REQUIRE(p.in_stride * bytes % 16 == 0 && p.weight_stride * bytes % 16 == 0);
    if (p.dtype != DType::kBF16) BOOST_REQUIRE(p.cols % 16 == 0 && p.outs % 16 == 0 && p.out_stride % 4 == 0);
    for (std::size_t row = 0; row < p.rows; ++row) {
      for (std::size_t out = 0; out < p.outs; ++out) {
        double sum = p.bias != nullptr ? p.bias[out] : 0;
        for (std::size_t col = 0; col < p.cols; ++col) {
          sum +=
              number(p.dtype, p.in, row * p.in_stride + col) * number(p.dtype, p.weight, out * p.weight_stride + col);
        }
        if (p.dtype == DType::kI8) {
          static_cast<std::int32_t*>(p.out)[row * p.out_stride + out] = static_cast<std::int32_t>(sum);
        } else {
          static_cast<float*>(p.out)[row * p.out_stride + out] = static_cast<float>(sum);
        }
      }
    }
    return {};
  }

 private:
  static double number(DType dtype, const void* data, std::size_t index) {
    if (dtype == DType::kI8) return static_cast<const std::int8_t*>(data)[index];
    if (dtype == DType::kE4M3) return f32_of_e4m3(static_cast<const std::uint8_t*>(data)[index]);
    return f32_of_bf16(static_cast<const std::uint16_t*>(data)[index]);
  }
};

// Three products of the same inputs, the last two of which are a SwiGLU, through the library and by our own kernels.
struct Products {
  Products(TestGpu& gpu, DType dtype, Random& random)
      : gpu(gpu),
        rows(random.pick(1, 70)),
        cols(is_quantised(dtype) ? pick_cols(dtype, random) : random.pick(1, 300)),
        outs(random.pick(1, 80)),
        stride(outs + random.pick(0, 3)),
        in(rows, cols, random.pick(0, 3), random, 0.1f),
        plain(dtype, outs, cols, random),
        gate(dtype, outs, cols, random),
        up(dtype, outs, cols, random),
        bias(random.normals(outs)),
        out(gpu.room<float>(rows * stride)),
        gated(gpu.room<float>(rows * stride)) {
    call.in = gpu.upload(in.view().data, rows * in.view().row_stride);
    call.rows = rows;
    call.cols = cols;
    call.in_stride = in.view().row_stride;
    call.products[0] = {upload(gpu, plain.view()), gpu.upload(bias.data(), outs), out, stride};
    call.products[1] = {upload(gpu, gate.view()), gpu.upload(bias.data(), outs), gated, stride, Epilogue::kSilu};
    call.products[2] = {upload(gpu, up.view()), nullptr, gated, stride, Epilogue::kMultiply};
    call.num_products = 3;
    call.workspace = gpu.room<std::byte>(linear_workspace_bytes(rows, cols));
  }

  // (rows, outs) of `out`, then of `gated`.
  std::vector<float> results() {
    std::vector<float> all;
    for (const float* from : {out, gated}) {
      const auto values = gpu.download(from, rows * stride);
      for (std::size_t i = 0; i < values.size(); ++i) {
        if (i % stride < outs) all.push_back(values[i]);
      }
    }
    return all;
  }
  std::vector<float> by_library(CublasLt& library, LargeProducts products) {
    auto* workspace = gpu.room<std::byte>(large_linear_workspace_bytes(rows, cols, outs));
    const auto done = large_linear(library, gpu.stream(), call, products, workspace);
    BOOST_REQUIRE_MESSAGE(done.ok(), (done.ok() ? std::string() : done.error().message));
    return results();
  }
  std::vector<float> by_linear() {
    TROUPE_GPU_CALL(linear, gpu.stream(), call);
    return results();
  }

  TestGpu& gpu;
  std::size_t rows, cols, outs, stride;
  Strided in;
  AnyTypeWeight plain, gate, up;
  std::vector<float> bias;
  float* out;
  float* gated;
  LinearCall call;
};

float as_bf16(float value) { return f32_of_bf16(bf16_of_f32(value)); }

// A row of numbers rounded to E4M3, the largest of them to 448 steps.
std::vector<float> row_as_e4m3(std::vector<float> row) {
  float largest = 0;
  for (const float value : row) largest = std::max(largest, std::abs(value));
  for (float& value : row) {
    value = largest == 0 ? 0 : e4m3_by_definition(nearest_e4m3(value * (448.0f / largest))) * (largest / 448);
  }
  return row;
}

std::vector<float> rounded(DType to, std::vector<float> row) {
  if (to == DType::kE4M3) return row_as_e4m3(std::move(row));
  for (float& value : row) value = as_bf16(value);
  return row;
}

// Results are the products of inputs and weights rounded to a type.
void require_products(const Products& test, const std::vector<float>& results, DType rounded_to) {
  const auto weight_row = [&](const AnyTypeWeight& weight, std::size_t feature) {
    std::vector<float> row(test.cols);
    for (std::size_t col = 0; col < test.cols; ++col) {
      row[col] = weight.at(feature, col);
      if (weight.view().dtype == DType::kF32) row[col] = as_bf16(row[col]);
    }
    return rounded(rounded_to, row);
  };
  for (std::size_t feature = 0; feature < test.outs; ++feature) {
    const std::vector<float> weights[] = {weight_row(test.plain, feature), weight_row(test.gate, feature),
                                          weight_row(test.up, feature)};
    for (std::size_t row = 0; row < test.rows; ++row) {
      const auto in = rounded(rounded_to, test.in.row(row));
      double sums[] = {test.bias[feature], test.bias[feature], 0}, magnitudes[3] = {};
      for (std::size_t i = 0; i < 3; ++i) {
        for (std::size_t col = 0; col < test.cols; ++col) {
          const double term = double{in[col]} * weights[i][col];
          sums[i] += term;
          magnitudes[i] += std::abs(term);
        }
      }
      const std::size_t at = row * test.outs + feature;
      BOOST_REQUIRE_LE(std::abs(results[at] - sums[0]), 1e-5 * (magnitudes[0] + 1));
      const double gated = sums[1] / (1 + std::exp(-sums[1])) * sums[2];
      BOOST_REQUIRE_LE(std::abs(results[test.rows * test.outs + at] - gated),
                       1e-5 * (magnitudes[1] + 1) * (magnitudes[2] + 1));
    }
  }
}

// With every type of weights, through the library. fp8: whether the device has it.
void check_library(Gpu& device, CublasLt& library, bool fp8, Random& random) {
  for (const DType dtype : kWeightTypes) {
    TestGpu gpu(device);
    Products test(gpu, dtype, random);
    const auto results = test.by_library(library, LargeProducts::kBf16);
    if (dtype == DType::kInt8) {
      BOOST_TEST(results == test.by_linear(), boost::test_tools::per_element());
      BOOST_TEST(test.by_library(library, LargeProducts::kFp8) == results, boost::test_tools::per_element());
    } else {
      require_products(test, results, DType::kBF16);
      if (fp8) require_products(test, test.by_library(library, LargeProducts::kFp8), DType::kE4M3);
    }
  }
}

BOOST_AUTO_TEST_CASE(products_through_a_library_are_those_of_rounded_inputs_and_weights_and_of_int8_those_of_linear) {
  Random random(2);
  const auto device = open_emulated_gpu();
  HostProducts library;
  check_library(*device, library, true, random);
}

// What is not a number, or infinite, does not come out as one that looks right.
BOOST_AUTO_TEST_CASE(fp8_products_of_what_is_not_finite_are_not_finite) {
  Random random(4);
  const auto device = open_emulated_gpu();
  HostProducts library;
  for (const float bad : {NAN, INFINITY}) {
    TestGpu gpu(*device);
    Products test(gpu, DType::kBF16, random);
    test.in.view().row(0)[0] = bad;
    test.call.in = gpu.upload(test.in.view().data, test.rows * test.in.view().row_stride);
    const auto results = test.by_library(library, LargeProducts::kFp8);
    for (std::size_t out = 0; out < test.outs; ++out) BOOST_REQUIRE(!std::isfinite(results[out]));
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
  const bool fp8 = device.value()->properties().compute_capability >= kMinFp8Capability;
  check_library(*device.value(), **library, fp8, random);
  if (fp8) return;
  TestGpu gpu(*device.value());
  Products test(gpu, DType::kBF16, random);
  auto* workspace = gpu.room<std::byte>(large_linear_workspace_bytes(test.rows, test.cols, test.outs));
  const auto refused = large_linear(**library, gpu.stream(), test.call, LargeProducts::kFp8, workspace);
  BOOST_REQUIRE(!refused.ok());
  BOOST_TEST(refused.error().message.find("need 8.9") != std::string::npos);
}

BOOST_AUTO_TEST_SUITE_END()
