#include "kernels/cpu/quantised_avx512.h"

#include "kernels/cpu/quantised_loops.h"

namespace troupe::kernels {

constexpr QuantisedOps kAvx512QuantisedOps = quantised_ops<Vnni512>();

}  // namespace troupe::kernels
