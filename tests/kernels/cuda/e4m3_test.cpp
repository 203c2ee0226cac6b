#include <boost/test/unit_test.hpp>

#include "kernels/cuda/rope.h"
#include "tests/kernels/cuda/devices.h"
#include "tests/kernels/e4m3_numbers.h"

using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(e4m3_on_gpus)

// A head whose largest element is 448 is stored with a factor of one.
BOOST_AUTO_TEST_CASE(every_number_is_rounded_to_the_nearest_even_one) {
  std::vector<float> numbers;
  for (const float value : numbers_to_round()) {
    if (std::abs(value) <= 448) numbers.push_back(value);
  }
  constexpr std::size_t kHeadDim = 256;
  const std::size_t rows = (numbers.size() + kHeadDim - 2) / (kHeadDim - 1);
  std::vector<float> heads(rows * kHeadDim);
  for (std::size_t i = 0; i < rows * kHeadDim; ++i) {
    const std::size_t number = i / kHeadDim * (kHeadDim - 1) + i % kHeadDim - 1;
    heads[i] = i % kHeadDim == 0 ? 448 : number < numbers.size() ? numbers[number] : 0;
  }
  std::vector<std::uint32_t> slots(rows), positions(rows);
  for (std::size_t row = 0; row < rows; ++row) slots[row] = static_cast<std::uint32_t>(row);
  for (const auto& gpu : gpus_to_test()) {
    Pages pages(DType::kE4M3, rows, 1, 1, kHeadDim);
    const PagesOnGpu there(*gpu, pages.view());
    const MatrixOnGpu queries(*gpu, {heads.data(), rows, kHeadDim}), keys(*gpu, {heads.data(), rows, kHeadDim});
    const OnGpu<std::uint32_t> slots_there(*gpu, slots), positions_there(*gpu, positions);
    TROUPE_GPU_CALL(rotate_and_store, gpu->stream(),
                    RotateAndStoreArgs{.queries = queries.view(),
                                       .keys = keys.view(),
                                       .values = keys.view(),
                                       .positions = positions_there.data(),
                                       .slots = slots_there.data(),
                                       .kv = there.view()});
    there.fetch();
    const PagedKv kv = pages.view();
    for (std::size_t i = 0; i < heads.size(); ++i) {
      BOOST_REQUIRE_EQUAL(static_cast<const std::uint8_t*>(kv.keys)[i], nearest_e4m3(heads[i]));
      BOOST_REQUIRE_EQUAL(static_cast<const std::uint8_t*>(kv.values)[i], nearest_e4m3(heads[i]));
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
