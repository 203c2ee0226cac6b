#include "kernels/cuda/row_ops.h"

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <random>
#include <vector>

#include "tests/kernels/cuda/test_gpu.h"

namespace troupe::kernels {

BOOST_AUTO_TEST_SUITE(row_ops)

// Numbers of very different size, so that the order of a sum shows in its bits.
BOOST_AUTO_TEST_CASE(rows_are_added_in_their_order) {
  std::mt19937 engine(1);
  std::uniform_real_distribution<float> exponent(-10, 10);
  for (const auto& gpu : gpus_to_test()) {
    TestGpu device(*gpu);
    for (const std::size_t rows : {1, 2, 3, 8}) {
      for (const std::size_t cols : {0, 1, 255, 256, 257, 1000}) {
        std::vector<float> in(rows * cols), expected(cols);
        for (float& value : in) value = std::exp2(exponent(engine)) * (engine() % 2 == 0 ? 1.0f : -1.0f);
        for (std::size_t col = 0; col < cols; ++col) {
          expected[col] = in[col];
          for (std::size_t row = 1; row < rows; ++row) expected[col] += in[row * cols + col];
        }
        const SumRowsArgs args = {device.upload(in.data(), in.size()), rows, cols, device.room<float>(cols)};
        TROUPE_GPU_CALL(sum_rows, device.stream(), args);
        BOOST_TEST((device.download(args.out, cols) == expected), rows << " rows of " << cols);
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::kernels
