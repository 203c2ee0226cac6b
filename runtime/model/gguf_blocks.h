#pragma once

#include <cstddef>

namespace troupe::model {

// Rewrites blocks of Q5_0 (32 elements of five bits with one F16 scale, 22 bytes) as blocks of Q8_0 (34 bytes) of
// exactly the same values.
void widen_q5_0(const std::byte* blocks, std::size_t count, std::byte* out);

}  // namespace troupe::model
