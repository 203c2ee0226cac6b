#include "cluster/bench/random_stream.h"

#include <cmath>
#include <numbers>

namespace troupe::cluster {

RandomStream::RandomStream(std::uint64_t seed, Purpose purpose, std::uint64_t index)
    : key_{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)},
      counter_{0, static_cast<std::uint32_t>(purpose), static_cast<std::uint32_t>(index),
               static_cast<std::uint32_t>(index >> 32)} {}

std::uint32_t RandomStream::next() {
  if (used_ == block_.size()) {
    block_ = philox4x32(counter_, key_);
    ++counter_[0];
    used_ = 0;
  }
  return block_[used_++];
}

std::uint32_t RandomStream::below(std::uint32_t bound) {
  return static_cast<std::uint32_t>((std::uint64_t{next()} * bound) >> 32);
}

double RandomStream::uniform() {
  const std::uint64_t high = next();
  return static_cast<double>(((high << 32) | next()) >> 11) * 0x1.0p-53;
}

double RandomStream::exponential(double rate) { return -std::log1p(-uniform()) / rate; }

double RandomStream::normal() {  // Box and Muller 1958
  const double radius = std::sqrt(-2 * std::log1p(-uniform()));
  return radius * std::cos(2 * std::numbers::pi * uniform());
}

}  // namespace troupe::cluster
