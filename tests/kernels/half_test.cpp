#include "kernels/cpu/half.h"

#include <boost/test/unit_test.hpp>
#include <cmath>

#include "tests/kernels/implementations.h"

using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(half)

BOOST_AUTO_TEST_CASE(every_16_bit_number_survives_the_way_through_float32) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    if (std::isnan(f32_of_f16(half))) {
      BOOST_REQUIRE(std::isnan(f32_of_f16(f16_of_f32(f32_of_f16(half)))));
    } else {
      BOOST_REQUIRE_EQUAL(f16_of_f32(f32_of_f16(half)), half);
    }
    if (std::isnan(f32_of_bf16(half))) {
      BOOST_REQUIRE(std::isnan(f32_of_bf16(bf16_of_f32(f32_of_bf16(half)))));
    } else {
      BOOST_REQUIRE_EQUAL(bf16_of_f32(f32_of_bf16(half)), half);
    }
  }
}

BOOST_AUTO_TEST_CASE(narrowing_rounds_to_nearest_and_ties_to_even) {
  BOOST_TEST(f16_of_f32(1.0f + 0x1p-11f) == 0x3c00);
  BOOST_TEST(f16_of_f32(1.0f + 0x1.8p-10f) == 0x3c02);
  BOOST_TEST(f16_of_f32(0x1p-25f) == 0);
  BOOST_TEST(f16_of_f32(0x1.8p-24f) == 2);
  BOOST_TEST(f16_of_f32(65519.0f) == 0x7bff);
  BOOST_TEST(f16_of_f32(65520.0f) == 0x7c00);
  BOOST_TEST(f16_of_f32(-1e30f) == 0xfc00);
  BOOST_TEST(bf16_of_f32(1.0f + 0x1p-8f) == 0x3f80);
  BOOST_TEST(bf16_of_f32(1.0f + 0x1.8p-7f) == 0x3f82);
  BOOST_TEST(bf16_of_f32(0x1.fffffep127f) == 0x7f80);
}

BOOST_AUTO_TEST_CASE(vectors_convert_every_16_bit_number_as_the_scalar_code_does) {
  std::vector<std::uint16_t> all(0x10000);
  for (std::uint32_t bits = 0; bits < all.size(); ++bits) all[bits] = static_cast<std::uint16_t>(bits);
  const std::uint32_t token = 0;
  for (const auto& name : vector_implementations()) {
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      std::vector<float> wide(all.size());
      const auto kernels = make(name);
      kernels->begin_step({.tokens = {&token, 1}});
      kernels->embed({all.data(), dtype, 1, all.size(), all.size()}, 0, {wide.data(), 1, wide.size()});
      for (std::size_t i = 0; i < all.size(); ++i) {
        const float expected = load_as_f32(all.data(), dtype, i);
        BOOST_REQUIRE(std::isnan(expected) ? std::isnan(wide[i]) : wide[i] == expected);
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
