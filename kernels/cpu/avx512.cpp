#include <immintrin.h>

#include "kernels/cpu/vector_loops.h"

namespace troupe::kernels {
namespace {

// As Avx2 in avx2.cpp. 6 rows of 4 vectors keep 24 sums and 4 weights in the 32 registers, inputs being broadcast
// from memory by the multiply-add itself.
struct Avx512 {
  using Reg = __m512;
  using Halves = __m256i;
  static constexpr std::size_t kWidth = 16;
  static constexpr std::size_t kPanelVectors = 4;
  static constexpr std::size_t kTileRows = 6;
  static constexpr std::size_t kScoreVectors = 4;
  static constexpr std::size_t kValueVectors = 2;

  static __mmask16 first_lanes(std::size_t count) { return static_cast<__mmask16>((1u << count) - 1); }

  static Reg load(const float* data) { return _mm512_loadu_ps(data); }
  static Reg load_some(const float* data, std::size_t count) { return _mm512_maskz_loadu_ps(first_lanes(count), data); }
  static void store(float* data, Reg value) { _mm512_storeu_ps(data, value); }
  static void store_some(float* data, Reg value, std::size_t count) {
    _mm512_mask_storeu_ps(data, first_lanes(count), value);
  }

  static Reg load_bytes(const std::int8_t* data) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data))));
  }
  static Reg load_some_bytes(const std::int8_t* data, std::size_t count) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(first_lanes(count), data)));
  }

  static Reg widen_e4m3(__m128i bytes) {
    const __m256i bits = _mm256_cvtepu8_epi16(bytes);
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(bits, _mm256_set1_epi16(0x80)), 8);
    const __m256i magnitude = _mm256_slli_epi16(_mm256_and_si256(bits, _mm256_set1_epi16(0x7f)), 7);
    const __mmask16 is_nan = _mm256_cmpeq_epi16_mask(magnitude, _mm256_set1_epi16(0x7f << 7));
    const __m256i nan = _mm256_maskz_set1_epi16(is_nan, 0x7e00);
    const __m256i half = _mm256_or_si256(_mm256_or_si256(sign, magnitude), nan);
    return _mm512_mul_ps(_mm512_cvtph_ps(half), _mm512_set1_ps(0x1p8f));
  }
  static Reg load_e4m3(const std::uint8_t* data) {
    return widen_e4m3(_mm_loadu_si128(reinterpret_cast<const __m128i*>(data)));
  }
  static Reg load_some_e4m3(const std::uint8_t* data, std::size_t count) {
    return widen_e4m3(_mm_maskz_loadu_epi8(first_lanes(count), data));
  }

  static Halves load_halves(const std::uint16_t* data) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(data));
  }
  static Halves load_some_halves(const std::uint16_t* data, std::size_t count) {
    return _mm256_maskz_loadu_epi16(first_lanes(count), data);
  }
  static void store_halves(std::uint16_t* data, Halves value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(data), value);
  }
  static void store_some_halves(std::uint16_t* data, Halves value, std::size_t count) {
    _mm256_mask_storeu_epi16(data, first_lanes(count), value);
  }

  template <DType D>
  static Reg widen(Halves value) {
    if constexpr (D == DType::kF16) return _mm512_cvtph_ps(value);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(value), 16));
  }
  template <DType D>
  static Halves narrow(Reg value) {
    if constexpr (D == DType::kF16) return _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
    const __mmask16 is_nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_blend_epi32(is_nan, rounded, quiet), 16));
  }

  static Reg set(float value) { return _mm512_set1_ps(value); }
  static Reg add(Reg a, Reg b) { return _mm512_add_ps(a, b); }
  static Reg sub(Reg a, Reg b) { return _mm512_sub_ps(a, b); }
  static Reg mul(Reg a, Reg b) { return _mm512_mul_ps(a, b); }
  static Reg div(Reg a, Reg b) { return _mm512_div_ps(a, b); }
  static Reg fma(Reg a, Reg b, Reg c) { return _mm512_fmadd_ps(a, b, c); }
  static Reg min(Reg a, Reg b) { return _mm512_min_ps(a, b); }
  static Reg max(Reg a, Reg b) { return _mm512_max_ps(a, b); }
  static Reg round(Reg a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static Reg scale_by_power_of_2(Reg a, Reg n) { return _mm512_scalef_ps(a, n); }
  static float first(Reg a) { return _mm512_cvtss_f32(a); }
  static float sum(Reg a) { return _mm512_reduce_add_ps(a); }
};

}  // namespace

constexpr VectorOps kAvx512Ops = vector_ops<Avx512>();

}  // namespace troupe::kernels
