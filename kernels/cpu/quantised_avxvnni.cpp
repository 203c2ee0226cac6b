#include "kernels/cpu/quantised_avx2.h"
#include "kernels/cpu/quantised_loops.h"

namespace troupe::kernels {

constexpr QuantisedOps kAvxVnniQuantisedOps = quantised_ops<Pair256<true>>();

}  // namespace troupe::kernels
