#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <vector>

namespace troupe::kernels {

// OFP8 (Micikevicius et al. 2022), table 1: bits other than 0x7f and 0xff.
inline float e4m3_by_definition(unsigned bits) {
  const int exponent = static_cast<int>(bits >> 3 & 15), mantissa = static_cast<int>(bits & 7);
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return static_cast<float>((bits & 0x80) != 0 ? -magnitude : magnitude);
}

// By looking at all of them. REQUIRES: not a NaN
inline std::uint8_t nearest_e4m3(float value) {
  const double magnitude = std::abs(double{value});
  unsigned best = 0;
  for (unsigned bits = 1; bits < 0x7f; ++bits) {
    const double distance = std::abs(e4m3_by_definition(bits) - magnitude);
    const double best_distance = std::abs(e4m3_by_definition(best) - magnitude);
    if (distance < best_distance || (distance == best_distance && bits % 2 == 0)) best = bits;
  }
  return static_cast<std::uint8_t>(best | (std::signbit(value) ? 0x80u : 0u));
}

// Of each sign, exponent and first five bits of the mantissa, with nothing, something, and everything behind them.
inline std::vector<float> numbers_to_round() {
  std::vector<float> numbers;
  for (std::uint32_t upper = 0; upper < 1u << 14; ++upper) {
    for (const std::uint32_t lower : {0x00000u, 0x00001u, 0x1ffffu, 0x20000u, 0x3ffffu}) {
      const float value = std::bit_cast<float>(upper << 18 | lower);
      if (!std::isnan(value)) numbers.push_back(value);
    }
  }
  return numbers;
}

}  // namespace troupe::kernels
