#pragma once

#include <cstddef>
#include <cstdint>

#include "tests/bench/gpu_bench/bench.h"

namespace troupe::bench {

// What a GPU can do at most, as measured.
struct Ceilings {
  double bytes_per_second = 0;       // of a copy within its memory, read and written bytes together
  double operations_per_second = 0;  // of a large product of BF16 matrices: multiplications and additions
  bool by_library = false;           // that product is cuBLASLt's; else our own, where there is no such library
};

// `copied`: bytes of the copy. `size`: of the square matrices.
Ceilings measure_ceilings(Bench& bench, std::uint32_t gpu, std::size_t copied, std::size_t size);

}  // namespace troupe::bench
