#include "runtime/collective/rank_order.h"

#include <algorithm>
#include <cassert>
#include <cstddef>

namespace troupe::collective {

void sum_in_rank_order(std::span<const std::span<const float>> parts, std::span<float> out) {
  assert(!parts.empty());
  // Piece by piece, so that the running sum stays in the first-level cache while the parts stream by.
  constexpr std::size_t kPiece = 2048;
  for (std::size_t first = 0; first < out.size(); first += kPiece) {
    const std::size_t count = std::min(kPiece, out.size() - first);
    float* sum = out.data() + first;
    if (parts[0].data() != out.data()) std::copy_n(parts[0].data() + first, count, sum);
    for (const auto& part : parts.subspan(1)) {
      assert(part.size() == out.size());
      const float* addend = part.data() + first;
      for (std::size_t i = 0; i < count; ++i) sum[i] += addend[i];
    }
  }
}

}  // namespace troupe::collective
