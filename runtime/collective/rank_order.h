#pragma once

#include <span>

namespace troupe::collective {

// out[i] = ((parts[0][i] + parts[1][i]) + parts[2][i]) + ...: the one place where ranks' numbers are added, so that
// every communicator, and every rank of it, gets the same bits. out overlaps no part, save that it may be parts[0].
// REQUIRES: at least one part; all parts as long as out.
void sum_in_rank_order(std::span<const std::span<const float>> parts, std::span<float> out);

}  // namespace troupe::collective
