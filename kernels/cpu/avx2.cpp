#include <immintrin.h>

#include "kernels/cpu/vector_loops.h"

namespace troupe::kernels {
namespace {

// What the loops ask of a vector type: registers of kWidth floats (Reg) and of kWidth 16-bit numbers (Halves),
// vectors of values in one pass of attention (kValueVectors, eight queries at a time), partial loads (zeros beyond
// count) and stores for count in [1, kWidth], and the arithmetic below. min and max return their second argument if it
// is a NaN.
//
// 4 rows of 3 vectors keep 12 sums, 3 weights and one input in the 16 registers; 3 chains hide most of the latency of
// a fused multiply-add when there is one row.
struct Avx2 {
  using Reg = __m256;
  using Halves = __m128i;
  static constexpr std::size_t kWidth = 8;
  static constexpr std::size_t kPanelVectors = 3;
  static constexpr std::size_t kTileRows = 4;
  static constexpr std::size_t kScoreVectors = 2;
  static constexpr std::size_t kValueVectors = 1;

  static __m256i first_lanes(std::size_t count) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lane);
  }

  static Reg load(const float* data) { return _mm256_loadu_ps(data); }
  static Reg load_some(const float* data, std::size_t count) { return _mm256_maskload_ps(data, first_lanes(count)); }
  static void store(float* data, Reg value) { _mm256_storeu_ps(data, value); }
  static void store_some(float* data, Reg value, std::size_t count) {
    _mm256_maskstore_ps(data, first_lanes(count), value);
  }

  static Reg load_bytes(const std::int8_t* data) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(data))));
  }
  static Reg load_some_bytes(const std::int8_t* data, std::size_t count) {
    alignas(8) std::int8_t lanes[kWidth] = {};
    for (std::size_t i = 0; i < count; ++i) lanes[i] = data[i];
    return load_bytes(lanes);
  }

  // E4M3, shifted to where F16 has exponent and mantissa, is 2^-8 of the number.
  static Reg widen_e4m3(__m128i bytes) {
    const __m128i bits = _mm_cvtepu8_epi16(bytes);
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(bits, _mm_set1_epi16(0x80)), 8);
    const __m128i magnitude = _mm_slli_epi16(_mm_and_si128(bits, _mm_set1_epi16(0x7f)), 7);
    const __m128i is_nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x7f << 7));
    const __m128i half = _mm_or_si128(_mm_or_si128(sign, magnitude), _mm_and_si128(is_nan, _mm_set1_epi16(0x7e00)));
    return _mm256_mul_ps(_mm256_cvtph_ps(half), _mm256_set1_ps(0x1p8f));
  }
  static Reg load_e4m3(const std::uint8_t* data) {
    return widen_e4m3(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(data)));
  }
  static Reg load_some_e4m3(const std::uint8_t* data, std::size_t count) {
    alignas(8) std::uint8_t lanes[kWidth] = {};
    for (std::size_t i = 0; i < count; ++i) lanes[i] = data[i];
    return load_e4m3(lanes);
  }

  static Halves load_halves(const std::uint16_t* data) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(data));
  }
  static Halves load_some_halves(const std::uint16_t* data, std::size_t count) {
    alignas(16) std::uint16_t lanes[kWidth] = {};
    for (std::size_t i = 0; i < count; ++i) lanes[i] = data[i];
    return _mm_load_si128(reinterpret_cast<const __m128i*>(lanes));
  }
  static void store_halves(std::uint16_t* data, Halves value) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(data), value);
  }
  static void store_some_halves(std::uint16_t* data, Halves value, std::size_t count) {
    alignas(16) std::uint16_t lanes[kWidth];
    _mm_store_si128(reinterpret_cast<__m128i*>(lanes), value);
    for (std::size_t i = 0; i < count; ++i) data[i] = lanes[i];
  }

  template <DType D>
  static Reg widen(Halves value) {
    if constexpr (D == DType::kF16) return _mm256_cvtph_ps(value);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(value), 16));
  }
  template <DType D>
  static Halves narrow(Reg value) {
    if constexpr (D == DType::kF16) return _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256i bits = _mm256_castps_si256(value);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    const __m256i upper = _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, is_nan), 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
  }

  static Reg set(float value) { return _mm256_set1_ps(value); }
  static Reg add(Reg a, Reg b) { return _mm256_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm256_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm256_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm256_div_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm256_fmadd_ps(a, b, c); }
  static Reg min(Reg a, Reg b) { return _mm256_min_ps(a, b); }
  static Reg max(Reg a, Reg b) { return _mm256_max_ps(a, b); }
  static Reg round(Reg a) { return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  // a * 2^n for whole n in [-126, 127]
  static Reg scale_by_power_of_2(Reg a, Reg n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_mul_ps(a, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }
  static float first(Reg a) { return _mm256_cvtss_f32(a); }
  static float sum(Reg a) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
  }
};

}  // namespace

constexpr VectorOps kAvx2Ops = vector_ops<Avx2>();

}  // namespace troupe::kernels
