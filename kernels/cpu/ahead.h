// Weights that are asked for while others are multiplied. Everything here has internal linkage, as in
// kernels/cpu/vector_loops.h.

#pragma once

#include <cstddef>

namespace troupe::kernels {
namespace {

// Memory asked for in equal parts, one in each of `steps`, into the second-level cache: the first is full of what is
// being multiplied. A core waits for a few lines at a time only, so that all at once would be in vain.
class Ahead {
 public:
  Ahead(const std::byte* begin, std::size_t bytes, std::size_t steps)
      : next_(begin), end_(begin + bytes), lines_a_step_(steps == 0 ? 0 : (bytes / kLine + steps - 1) / steps) {}

  void step() {
    for (std::size_t line = 0; line < lines_a_step_ && next_ < end_; ++line, next_ += kLine) {
      __builtin_prefetch(next_, 0, 2);
    }
  }

 private:
  static constexpr std::size_t kLine = 64;  // bytes

  const std::byte* next_;
  const std::byte* end_;
  std::size_t lines_a_step_;
};

}  // namespace
}  // namespace troupe::kernels
