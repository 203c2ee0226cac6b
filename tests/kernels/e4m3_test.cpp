#include "kernels/cpu/e4m3.h"

#include <boost/test/unit_test.hpp>
#include <cmath>

#include "tests/kernels/e4m3_numbers.h"
#include "tests/kernels/implementations.h"

using namespace troupe::kernels;

BOOST_AUTO_TEST_SUITE(e4m3)

BOOST_AUTO_TEST_CASE(every_byte_stands_for_what_the_specification_says) {
  for (unsigned bits = 0; bits < 256; ++bits) {
    const float value = f32_of_e4m3(static_cast<std::uint8_t>(bits));
    if ((bits & 0x7f) == 0x7f) {
      BOOST_REQUIRE(std::isnan(value));
      continue;
    }
    BOOST_REQUIRE_EQUAL(value, e4m3_by_definition(bits));
    BOOST_REQUIRE_EQUAL(std::signbit(value), bits >= 128);
  }
}

// The four bits of a float that decide, and whether anything follows them: every case, for every exponent and sign.
BOOST_AUTO_TEST_CASE(every_number_is_rounded_to_the_nearest_even_one_and_saturates) {
  for (const float value : numbers_to_round()) BOOST_REQUIRE_EQUAL(e4m3_of_f32(value), nearest_e4m3(value));
  BOOST_TEST(e4m3_of_f32(NAN) == 0x7f);
  BOOST_TEST(e4m3_of_f32(-INFINITY) == 0xfe);
}

// The one value that a query sees is what it gets: what vectors make of each byte.
BOOST_AUTO_TEST_CASE(vectors_read_every_byte_as_the_scalar_code_does) {
  for (const auto& name : vector_implementations()) {
    for (const std::size_t head_dim : {256, 255}) {
      Pages pages(DType::kE4M3, 1, 1, 1, head_dim);
      const PagedKv kv = pages.view();
      for (std::size_t i = 0; i < head_dim; ++i) {
        static_cast<std::uint8_t*>(kv.keys)[i] = 0;
        static_cast<std::uint8_t*>(kv.values)[i] = static_cast<std::uint8_t>(i);
      }
      kv.key_scales[0] = kv.value_scales[0] = 1;
      const std::uint32_t starts[] = {0, 1}, context = 1, table = 0;
      const std::vector<float> query(head_dim);
      std::vector<float> out(head_dim);
      const AttentionShape shape = {.num_heads = 1, .num_kv_heads = 1, .head_dim = head_dim, .scale = 1};
      const auto kernels = make(name);
      kernels->begin_step({.attention = {starts, {&context, 1}, {&table, 1}, starts}, .shapes = {&shape, 1}});
      kernels->attention({query.data(), 1, head_dim}, kv, 0, {out.data(), 1, head_dim});
      for (std::size_t i = 0; i < head_dim; ++i) {
        const float expected = f32_of_e4m3(static_cast<std::uint8_t>(i));
        BOOST_REQUIRE(std::isnan(expected) ? std::isnan(out[i]) : out[i] == expected);
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
