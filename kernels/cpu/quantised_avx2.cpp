#include "kernels/cpu/quantised_avx2.h"

#include "kernels/cpu/quantised_loops.h"

namespace troupe::kernels {

constexpr QuantisedOps kAvx2QuantisedOps = quantised_ops<Pair256<false>>();

}  // namespace troupe::kernels
