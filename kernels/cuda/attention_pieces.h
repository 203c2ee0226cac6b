#pragma once

#include <cstddef>

#include "kernels/cuda/attention_plan.h"
#include "kernels/cuda/gpu.h"

namespace troupe::kernels {

// A row of pieces has, for each head, what one stretch of positions comes to: the values, not yet divided by the sum of
// their weights; the highest score, as a logarithm to base 2; the sum of weights relative to it.
constexpr std::size_t attention_piece_floats(std::size_t num_heads, std::size_t value_dim) {
  return num_heads * (value_dim + 2);
}

// Puts the stretches of each merge together, in their order, into its rows of `out`. Nothing where there are no merges.
TROUPE_GPU_FUNCTIONS(void merge_pieces(Stream stream, const AttentionWork& work, std::size_t value_dim);)

}  // namespace troupe::kernels
