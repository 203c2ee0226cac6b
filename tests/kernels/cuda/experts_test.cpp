#include "kernels/cuda/experts.h"

#include <boost/test/unit_test.hpp>
#include <cmath>

#include "kernels/cpu/routing.h"
#include "tests/kernels/cuda/test_gpu.h"
#include "tests/kernels/implementations.h"

using namespace troupe;
using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(gpu_experts)

struct RoutedRows {
  std::vector<std::uint32_t> experts, starts, row_of, places;
  std::vector<float> weights;
};

RoutedRows route_on(TestGpu& gpu, Strided& logits, std::size_t per_token, bool normalise,
                    const std::uint32_t* live_rows = nullptr) {
  const auto view = logits.view();
  const std::size_t choices = view.rows * per_token;
  RouteCall call;
  call.router_logits = gpu.upload(view.data, view.rows * view.row_stride);
  call.rows = view.rows;
  call.num_experts = view.cols;
  call.row_stride = view.row_stride;
  call.per_token = per_token;
  call.normalise = normalise;
  call.live_rows = live_rows;
  call.experts = gpu.room<std::uint32_t>(choices);
  call.weights = gpu.room<float>(choices);
  call.starts = gpu.room<std::uint32_t>(view.cols + 1);
  call.row_of = gpu.room<std::uint32_t>(choices);
  call.places = gpu.room<std::uint32_t>(choices);
  TROUPE_GPU_CALL(route, gpu.stream(), call);
  return {.experts = gpu.download(call.experts, choices),
          .starts = gpu.download(call.starts, view.cols + 1),
          .row_of = gpu.download(call.row_of, choices),
          .places = gpu.download(call.places, choices),
          .weights = gpu.download(call.weights, choices)};
}

// That a row's choices are in order, and that the order by expert is that of the rows.
void require_consistent(const RoutedRows& routed, std::size_t per_token) {
  for (std::size_t i = 0; i < routed.experts.size(); ++i) {
    if (i % per_token != 0) BOOST_REQUIRE_LT(routed.experts[i - 1], routed.experts[i]);
    const std::uint32_t place = routed.places[i], expert = routed.experts[i];
    BOOST_REQUIRE(place >= routed.starts[expert] && place < routed.starts[expert + 1]);
    BOOST_REQUIRE_EQUAL(routed.row_of[place], i / per_token);
    if (place > routed.starts[expert]) BOOST_REQUIRE_LT(routed.row_of[place - 1], routed.row_of[place]);
  }
}

BOOST_AUTO_TEST_CASE(routing_agrees_with_the_host_about_rows_and_weights) {
  Random random(1);
  for (const auto& device : gpus_to_test()) {
    for (int round = 0; round < 60; ++round) {
      TestGpu gpu(*device);
      const std::size_t rows = random.pick(1, round % 10 == 9 ? 300 : 20);
      const std::size_t num_experts = random.pick(1, 140);
      const MixtureShape shape = {random.pick(1, std::min<std::size_t>(num_experts, 12)), random.pick(0, 1) == 1};
      Strided logits(rows, num_experts, random.pick(0, 3), random, round % 2 == 0 ? 1.0f : 30.0f);
      for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t i = 0; i < num_experts; ++i) {
          float& logit = logits.view().row(row)[i];
          if (round % 3 == 1) logit = std::round(logit);  // ties
          if (round % 6 == 5 && random.pick(0, 9) == 0) logit = random.pick(0, 1) == 0 ? NAN : -INFINITY;
        }
      }
      Routing routing;
      routing.choose(logits.view(), shape);
      const RoutedRows routed = route_on(gpu, logits, shape.experts_per_token, shape.normalise);
      require_consistent(routed, shape.experts_per_token);
      for (std::uint32_t expert = 0; expert < num_experts; ++expert) {
        const auto expected = routing.of(expert);
        BOOST_REQUIRE_EQUAL(routed.starts[expert + 1] - routed.starts[expert], expected.rows.size());
        for (std::size_t i = 0; i < expected.rows.size(); ++i) {
          BOOST_REQUIRE_EQUAL(routed.row_of[routed.starts[expert] + i], expected.rows[i]);
        }
      }
      for (std::size_t i = 0; i < routed.experts.size(); ++i) {
        const auto of_expert = routing.of(routed.experts[i]);
        const float expected = of_expert.weights[routed.places[i] - routed.starts[routed.experts[i]]];
        if (std::isnan(expected)) {
          BOOST_REQUIRE(std::isnan(routed.weights[i]));
        } else {
          BOOST_REQUIRE_LE(std::abs(routed.weights[i] - expected), 1e-7f * expected);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(rows_that_are_padding_choose_no_expert_and_are_left_as_they_are) {
  Random random(4);
  for (const auto& device : gpus_to_test()) {
    for (int round = 0; round < 10; ++round) {
      TestGpu gpu(*device);
      const std::size_t rows = random.pick(2, 20), cols = 70, per_token = random.pick(1, 3);
      const auto live = static_cast<std::uint32_t>(random.pick(1, rows - 1));
      Strided logits(rows, 6, 0, random), live_logits(live, 6, 0);
      std::copy_n(logits.view().data, live * 6, live_logits.view().data);
      const RoutedRows expected = route_on(gpu, live_logits, per_token, true);
      const std::uint32_t* const live_there = gpu.upload(&live, 1);
      const RoutedRows routed = route_on(gpu, logits, per_token, true, live_there);
      BOOST_TEST(routed.starts == expected.starts, boost::test_tools::per_element());
      for (std::size_t i = 0; i < routed.row_of.size(); ++i) {
        BOOST_REQUIRE_EQUAL(routed.row_of[i], i < live * per_token ? expected.row_of[i] : 0);
      }
      Strided in(rows * per_token, cols, 0, random), out(rows, cols, 0, random);
      CombineCall call;
      call.in = gpu.upload(in.view().data, in.view().rows * cols);
      call.rows = rows;
      call.cols = call.in_stride = call.out_stride = cols;
      call.per_token = per_token;
      call.live_rows = live_there;
      call.weights = gpu.upload(routed.weights.data(), routed.weights.size());
      call.places = gpu.upload(routed.places.data(), routed.places.size());
      call.out = gpu.upload(out.view().data, rows * cols);
      TROUPE_GPU_CALL(combine, gpu.stream(), call);
      const auto sums = gpu.download(call.out, rows * cols);
      for (std::size_t row = 0; row < rows; ++row) {
        const std::vector<float> sum(sums.begin() + static_cast<std::ptrdiff_t>(row * cols),
                                     sums.begin() + static_cast<std::ptrdiff_t>((row + 1) * cols));
        BOOST_REQUIRE((sum == out.row(row)) == (row >= live));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(outputs_of_experts_are_added_up_in_the_order_of_experts) {
  Random random(2);
  for (const auto& device : gpus_to_test()) {
    for (int round = 0; round < 20; ++round) {
      TestGpu gpu(*device);
      const std::size_t rows = random.pick(1, 20), cols = random.pick(1, 600), per_token = random.pick(1, 4);
      Strided logits(rows, random.pick(per_token, 20), 0, random);
      const RoutedRows routed = route_on(gpu, logits, per_token, true);
      Strided in(rows * per_token, cols, random.pick(0, 3), random), out(rows, cols, random.pick(0, 3), random);
      CombineCall call;
      call.in = gpu.upload(in.view().data, in.view().rows * in.view().row_stride);
      call.rows = rows;
      call.cols = cols;
      call.in_stride = in.view().row_stride;
      call.per_token = per_token;
      call.weights = gpu.upload(routed.weights.data(), routed.weights.size());
      call.places = gpu.upload(routed.places.data(), routed.places.size());
      call.out_stride = out.view().row_stride;
      call.out = gpu.upload(out.view().data, rows * call.out_stride);
      TROUPE_GPU_CALL(combine, gpu.stream(), call);
      const auto sums = gpu.download(call.out, rows * call.out_stride);
      for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t col = 0; col < call.out_stride; ++col) {
          float expected = col < cols ? out.at(row, col) : Strided::kUntouched;
          for (std::size_t i = 0; i < per_token && col < cols; ++i) {
            expected += routed.weights[row * per_token + i] * in.at(routed.places[row * per_token + i], col);
          }
          BOOST_REQUIRE_EQUAL(sums[row * call.out_stride + col], expected);
        }
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(the_share_of_the_shared_expert_is_that_of_the_host) {
  Random random(3);
  for (const auto& device : gpus_to_test()) {
    for (int round = 0; round < 20; ++round) {
      TestGpu gpu(*device);
      const std::size_t rows = random.pick(1, 10);
      Strided in(rows, random.pick(1, 700), random.pick(0, 3), random);
      Strided out(rows, random.pick(1, 700), random.pick(0, 3), random);
      const auto weight = random.normals(in.view().cols, round % 2 == 0 ? 0.1f : 30.0f);
      SigmoidCall call;
      call.in = gpu.upload(in.view().data, rows * in.view().row_stride);
      call.rows = rows;
      call.in_cols = in.view().cols;
      call.in_stride = in.view().row_stride;
      call.weight = gpu.upload(weight.data(), weight.size());
      call.out_cols = out.view().cols;
      call.out_stride = out.view().row_stride;
      call.out = gpu.upload(out.view().data, rows * call.out_stride);
      TROUPE_GPU_CALL(weigh_by_sigmoid, gpu.stream(), call);
      const auto weighed = gpu.download(call.out, rows * call.out_stride);
      make("reference")->scale_by_sigmoid(in.view(), weight, out.view());
      for (std::size_t row = 0; row < rows; ++row) {
        for (std::size_t col = 0; col < call.out_stride; ++col) {
          const float expected = col < call.out_cols ? out.at(row, col) : Strided::kUntouched;
          BOOST_REQUIRE_LE(std::abs(weighed[row * call.out_stride + col] - expected), 2e-7f * std::abs(expected));
        }
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
