#pragma once

#include <cstdint>

#include "kernels/cuda/simt.h"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

// 2^(i / 32), rounded to nearest.
__device__ constexpr double kPowers[32] = {
    0x1.0000000000000p+0, 0x1.059b0d3158574p+0, 0x1.0b5586cf9890fp+0, 0x1.11301d0125b51p+0, 0x1.172b83c7d517bp+0,
    0x1.1d4873168b9aap+0, 0x1.2387a6e756238p+0, 0x1.29e9df51fdee1p+0, 0x1.306fe0a31b715p+0, 0x1.371a7373aa9cbp+0,
    0x1.3dea64c123422p+0, 0x1.44e086061892dp+0, 0x1.4bfdad5362a27p+0, 0x1.5342b569d4f82p+0, 0x1.5ab07dd485429p+0,
    0x1.6247eb03a5585p+0, 0x1.6a09e667f3bcdp+0, 0x1.71f75e8ec5f74p+0, 0x1.7a11473eb0187p+0, 0x1.82589994cce13p+0,
    0x1.8ace5422aa0dbp+0, 0x1.93737b0cdc5e5p+0, 0x1.9c49182a3f090p+0, 0x1.a5503b23e255dp+0, 0x1.ae89f995ad3adp+0,
    0x1.b7f76f2fb5e47p+0, 0x1.c199bdd85529cp+0, 0x1.cb720dcef9069p+0, 0x1.d5818dcfba487p+0, 0x1.dfc97337b9b5fp+0,
    0x1.ea4afa2a490dap+0, 0x1.f50765b6e4540p+0,
};

// expf for what is not above 0, with glibc's algorithm (since 2.28; Szabolcs Nagy, Arm Optimized Routines): x = (k / 32
// + r) ln 2, e^x = 2^(k / 32) 2^r, the latter a polynomial of the third degree in float64. The host's sampler, which
// calls expf, then sees the same bits. What is below the smallest float32 is 0.
__device__ __forceinline__ float exp_as_glibc(float x) {
  constexpr double kInverseLn2 = 0x1.71547652b82fep+0 * 32;
  constexpr double kCubic = 0x1.c6af84b912394p-5 / 32 / 32 / 32;
  constexpr double kQuadratic = 0x1.ebfce50fac4f3p-3 / 32 / 32;
  constexpr double kLinear = 0x1.62e42ff0c52d6p-1 / 32;
  if (x != x) return x;
  if (x < -0x1.9fe368p6f) return 0;  // log(2^-150)
  const double z = kInverseLn2 * static_cast<double>(x);
  const double k = rint(z);
  const double r = z - k;
  const auto index = static_cast<int>(k);
  // 2^(index / 32), whose exponent is far from both ends.
  const double scale = kPowers[index & 31] * __longlong_as_double((static_cast<long long>(index >> 5) + 1023) << 52);
  const double upper = fma(kCubic, r, kQuadratic);
  const double lower = fma(kLinear, r, 1.0);
  return static_cast<float>(fma(upper, r * r, lower) * scale);
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
