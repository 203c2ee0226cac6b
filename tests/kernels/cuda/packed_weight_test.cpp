#include "kernels/cuda/packed_weight.h"

#include <boost/test/unit_test.hpp>

#include "kernels/select.h"
#include "tests/kernels/any_weight.h"

namespace troupe::kernels {
namespace {

std::vector<std::byte> image_of(const WeightView& weight) {
  std::vector<std::byte> image(gpu_image_bytes(weight.dtype, weight.rows, weight.cols), std::byte{0xa5});
  pack_for_gpu(weight, image);
  return image;
}

constexpr DType kEveryFormat[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0, DType::kQ4_0, DType::kQ5_0,
                                  DType::kQ4_K, DType::kQ5_K, DType::kQ6_K, DType::kInt8, DType::kInt4};

BOOST_AUTO_TEST_SUITE(gpu_packed_weight)

BOOST_AUTO_TEST_CASE(chunks_packed_in_any_order_make_the_same_image) {
  Random random(1);
  for (const DType dtype : kEveryFormat) {
    const std::size_t rows = random.pick(1, 60);
    const std::size_t cols = is_block_format(dtype) ? 256 * random.pick(1, 3) : random.pick(1, 300);
    const AnyWeight weight(dtype, rows, cols, 0, random);
    const auto whole = image_of(weight.view());
    const std::size_t chunk_bytes = gpu_chunk_bytes(dtype);
    const std::size_t chunks = gpu_panels(rows) * gpu_panel_bytes(dtype, cols) / chunk_bytes;
    std::vector<std::byte> parts(chunks * chunk_bytes);
    for (std::size_t end = chunks; end > 0;) {  // from the last to the first
      const std::size_t first = end - random.pick(1, end);
      pack_chunks_for_gpu(weight.view(), first,
                          std::span(parts).subspan(first * chunk_bytes, (end - first) * chunk_bytes));
      end = first;
    }
    BOOST_TEST_CONTEXT("format " << int(dtype) << " rows " << rows << " cols " << cols) {
      BOOST_TEST(std::equal(parts.begin(), parts.end(), whole.begin()));
    }
  }
}

BOOST_AUTO_TEST_CASE(bf16_words_lie_where_the_lanes_of_a_warp_load_them) {
  constexpr std::size_t kRows = 21, kCols = 75;
  Random random(2);
  const Stored weight(DType::kBF16, kRows, kCols, 3, random);
  const auto image = image_of(weight.view());
  for (std::size_t row = 0; row < 32; ++row) {
    for (std::size_t col = 0; col < 96; ++col) {
      const std::size_t out = row % 16, word = col % 32 / 2;
      const std::size_t lane = out % 8 * 4 + word % 4, step = word / 8, reg = out / 8 + word % 8 / 4 * 2;
      const std::size_t place = row / 16 * gpu_panel_bytes(DType::kBF16, kCols) + col / 32 * 1024 + step * 512 +
                                lane * 16 + reg * 4 + col % 2 * 2;
      std::uint16_t bits;
      std::memcpy(&bits, image.data() + place, sizeof bits);
      const bool is_there = row < kRows && col < kCols;
      BOOST_TEST(f32_of_bf16(bits) == (is_there ? weight.at(row, col) : 0.0f));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_device_holds_the_image_where_it_was_told_to_or_in_memory_of_its_own) {
  auto made = make_kernels({.cores = {}, .gpu = 0});
  BOOST_REQUIRE_MESSAGE(made.ok(), made.error().message);
  Kernels& kernels = **made;
  DeviceMemory& memory = kernels.memory();
  Random random(3);
  const AnyWeight small(DType::kInt8, 50, 200, 0, random);
  // Larger than the pinned slots that it passes through.
  constexpr std::size_t kRows = 1030, kCols = 20'500;
  std::vector<std::uint16_t> numbers(kRows * kCols);
  for (std::size_t i = 0; i < numbers.size(); ++i) numbers[i] = static_cast<std::uint16_t>(i * 2654435761u >> 16);
  for (const WeightView& weight : {small.view(), WeightView{numbers.data(), DType::kBF16, kRows, kCols, kCols}}) {
    const auto expected = image_of(weight);
    BOOST_REQUIRE(kernels.packed_bytes(weight.dtype, weight.rows, weight.cols) == expected.size());
    void* const place = memory.allocate(expected.size(), "a test").value();
    const std::uint64_t used = memory.use().bytes;
    const auto packed = kernels.pack(weight, 0, {}, place).value();
    BOOST_TEST(memory.use().bytes == used);
    std::vector<std::byte> fetched(expected.size());
    BOOST_REQUIRE(memory.download(fetched.data(), place, fetched.size()).ok());
    BOOST_TEST((fetched == expected));
    {
      const auto own = kernels.pack(weight).value();
      BOOST_TEST(memory.use().bytes == used + expected.size());
    }
    BOOST_TEST(memory.use().bytes == used);
    BOOST_TEST(memory.use().peak_bytes >= used + expected.size());
    memory.release(place, expected.size());
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::kernels
