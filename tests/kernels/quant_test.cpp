#include "kernels/quant.h"

#include <boost/test/unit_test.hpp>
#include <cmath>
#include <cstring>

#include "tests/kernels/implementations.h"

using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(quant)

constexpr std::uint16_t kOne = 0x3c00;  // f16
constexpr std::uint16_t kHalf = 0x3800;
constexpr std::uint16_t kTwo = 0x4000;

template <class Block>
std::vector<float> values_of(DType dtype, const Block& block) {
  BOOST_REQUIRE(sizeof block == block_bytes(dtype) && Block::kElements == block_elements(dtype));
  std::vector<float> values(Block::kElements);
  dequantize(dtype, &block, values.size(), values.data());
  return values;
}

BOOST_AUTO_TEST_CASE(a_block_of_q8_0_is_its_scale_times_signed_bytes) {
  BlockQ8_0 block{.d = kHalf};
  block.quants[0] = -128;
  block.quants[31] = 127;
  const auto values = values_of(DType::kQ8_0, block);
  BOOST_TEST(values[0] == -64.0f);
  BOOST_TEST(values[1] == 0.0f);
  BOOST_TEST(values[31] == 63.5f);
}

BOOST_AUTO_TEST_CASE(a_block_of_q4_0_has_its_second_half_in_the_upper_nibbles) {
  BlockQ4_0 block{.d = kTwo};
  block.quants[3] = 0xf1;
  const auto values = values_of(DType::kQ4_0, block);
  BOOST_TEST(values[3] == 2.0f * (1 - 8));
  BOOST_TEST(values[19] == 2.0f * (15 - 8));
  BOOST_TEST(values[4] == -16.0f);
}

BOOST_AUTO_TEST_CASE(a_block_of_q4_k_has_six_bit_scales_and_mins_for_each_32_elements) {
  BlockQ4_K block{.d = kOne, .dmin = kHalf};
  // Sub-block 0: scale 0b110101, min 0b000011. Sub-block 5: scale 0b10'1001, min 0b11'0110, the upper two bits of which
  // lie above those of sub-block 1.
  block.scales[0] = 0b110101;
  block.scales[4] = 0b000011;
  block.scales[9] = 0b0110'1001;
  block.scales[1] = 0b10'000000;
  block.scales[5] = 0b11'000000;
  block.quants[7] = 0x05;       // elements 7 and 39
  block.quants[64 + 2] = 0xe0;  // elements 130 and 162 (sub-blocks 4 and 5)
  const auto values = values_of(DType::kQ4_K, block);
  BOOST_TEST(values[7] == 53.0f * 5 - 0.5f * 3);
  BOOST_TEST(values[8] == -0.5f * 3);
  BOOST_TEST(values[39] == 0.0f);
  BOOST_TEST(values[162] == 0b101001 * 14.0f - 0.5f * 0b110110);
}

BOOST_AUTO_TEST_CASE(a_block_of_q5_k_takes_its_fifth_bits_from_the_plane_of_the_sub_block) {
  BlockQ5_K block{.d = kOne, .dmin = kOne};
  block.scales[0] = 1;
  block.scales[1] = 2;
  block.quants[9] = 0x73;
  block.upper[9] = 0b10;  // element 41 only
  const auto values = values_of(DType::kQ5_K, block);
  BOOST_TEST(values[9] == 3.0f);
  BOOST_TEST(values[41] == 2.0f * (16 + 7));
}

BOOST_AUTO_TEST_CASE(a_block_of_q6_k_joins_four_and_two_bits_and_has_a_signed_scale_for_16_elements) {
  BlockQ6_K block{.d = kHalf};
  for (int i = 0; i < 16; ++i) block.scales[i] = static_cast<std::int8_t>(i == 13 ? -100 : i);
  block.lower[64 + 32 + 5] = 0x9c;  // second half: elements 128 + 37 (lower) and 128 + 101 (upper)
  block.upper[32 + 5] = 0b11'00'10'00;
  const auto values = values_of(DType::kQ6_K, block);
  BOOST_TEST(values[165] == 0.5f * 10 * (0x2c - 32));
  BOOST_TEST(values[229] == 0.5f * 14 * (0x39 - 32));
  BOOST_TEST(values[210] == 0.5f * -100 * -32);
}

BOOST_AUTO_TEST_CASE(int8_is_off_by_at_most_half_a_step_of_its_output) {
  Random random(1);
  for (const auto& [rows, cols] : {std::pair{1, 1}, {16, 64}, {37, 130}, {5, 700}}) {
    const auto weight = random.normals(std::size_t(rows * cols), 0.02f);
    std::vector<std::byte> panels(matrix_bytes(DType::kInt8, rows, cols));
    std::vector<float> scales(rows), row(cols);
    quantize_int8({weight.data(), std::size_t(rows), std::size_t(cols)}, panels.data(), scales);
    const WeightView view{panels.data(),     DType::kInt8,      std::size_t(rows),
                          std::size_t(cols), std::size_t(cols), scales.data()};
    for (int i = 0; i < rows; ++i) {
      dequantize_row(view, i, row.data());
      for (int j = 0; j < cols; ++j) {
        BOOST_REQUIRE_LE(std::abs(row[j] - weight[i * cols + j]), scales[i] * 0.50001f);
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(int4_is_nearer_than_steps_that_only_fit_the_largest_weight) {
  Random random(2);
  const std::size_t rows = 40, cols = 96;
  const auto weight = random.normals(rows * cols, 0.02f);
  std::vector<std::byte> panels(matrix_bytes(DType::kInt4, rows, cols));
  quantize_int4({weight.data(), rows, cols}, panels.data());
  const WeightView view{panels.data(), DType::kInt4, rows, cols, cols};
  double error = 0, plain_error = 0;
  std::vector<float> row(cols);
  for (std::size_t i = 0; i < rows; ++i) {
    dequantize_row(view, i, row.data());
    for (std::size_t first = 0; first < cols; first += kInt4Group) {
      float largest = 0;
      for (std::size_t j = first; j < first + kInt4Group; ++j)
        largest = std::max(largest, std::abs(weight[i * cols + j]));
      for (std::size_t j = first; j < first + kInt4Group; ++j) {
        const float w = weight[i * cols + j];
        BOOST_REQUIRE_LE(std::abs(row[j] - w), largest / 6.75f);
        error += std::pow(row[j] - w, 2);
        plain_error += std::pow(std::nearbyint(w / largest * 7) * largest / 7 - w, 2);
      }
    }
  }
  BOOST_TEST(error < 0.9 * plain_error);
}

BOOST_AUTO_TEST_CASE(weights_that_are_zero_tiny_or_huge_stay_finite) {
  for (const float size : {0.0f, 1e-45f, 1e-30f, 1e-6f, 1e5f, 3e38f}) {
    std::vector<float> weight(64, size), row(64), scales(1);
    weight[5] = -size;
    std::vector<std::byte> panels(matrix_bytes(DType::kInt8, 1, 64));
    quantize_int8({weight.data(), 1, 64}, panels.data(), scales);
    dequantize_row({panels.data(), DType::kInt8, 1, 64, 64, scales.data()}, 0, row.data());
    for (const float w : row) BOOST_REQUIRE_LE(std::abs(w), size * 1.01f);
    quantize_int4({weight.data(), 1, 64}, panels.data());
    dequantize_row({panels.data(), DType::kInt4, 1, 64, 64}, 0, row.data());
    for (const float w : row) BOOST_REQUIRE(std::isfinite(w));
  }
}

BOOST_AUTO_TEST_CASE(a_slice_reads_the_part_it_names) {
  Random random(3);
  const std::size_t rows = 50, cols = 300;
  const auto weight = random.normals(rows * cols);
  for (const DType dtype : {DType::kInt8, DType::kInt4}) {
    std::vector<std::byte> panels(matrix_bytes(dtype, rows, cols));
    std::vector<float> scales(rows);
    if (dtype == DType::kInt8) quantize_int8({weight.data(), rows, cols}, panels.data(), scales);
    if (dtype == DType::kInt4) quantize_int4({weight.data(), rows, cols}, panels.data());
    const WeightView whole{panels.data(), dtype, rows, cols, cols, scales.data()};
    const WeightView part = slice(whole, 32, 18, 128, 172);
    std::vector<float> all(cols), some(172);
    dequantize_row(whole, 32 + 17, all.data());
    dequantize_row(part, 17, some.data());
    BOOST_TEST(std::equal(some.begin(), some.end(), all.begin() + 128));
  }
  std::vector<BlockQ8_0> blocks(4 * 3);
  for (auto& block : blocks) {
    block.d = kOne;
    for (auto& quant : block.quants) quant = static_cast<std::int8_t>(random.pick(0, 255));
  }
  const WeightView whole{blocks.data(), DType::kQ8_0, 4, 96, 96};
  std::vector<float> all(96), some(32);
  dequantize_row(whole, 3, all.data());
  dequantize_row(slice(whole, 2, 2, 64, 32), 1, some.data());
  BOOST_TEST(std::equal(some.begin(), some.end(), all.begin() + 64));
}

BOOST_AUTO_TEST_SUITE_END()
