// The vector type of kernels/cpu/quantised_loops.h for AVX-512 with VNNI.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace troupe::kernels {
namespace {

// 16 rows of sums, 8 vectors of weights and 4 of products fit the 32 registers; inputs are broadcast from memory by
// the multiply-add itself.
struct Vnni512 {
  using Bytes = __m512i;
  using Ints = __m512i;
  using Floats = __m512;
  static constexpr std::size_t kTileRows = 16;
  static constexpr bool kSigned = false;

  static __mmask16 first_lanes(std::size_t count) { return static_cast<__mmask16>((1u << count) - 1); }

  static Bytes load_bytes(const void* from) { return _mm512_loadu_si512(from); }
  static Bytes lower_nibbles(Bytes a) { return _mm512_and_si512(a, _mm512_set1_epi8(0x0f)); }
  static Bytes upper_nibbles(Bytes a) { return lower_nibbles(_mm512_srli_epi16(a, 4)); }
  // a | (b shifted left by kShift) & kMask; the mask keeps bits of one byte out of the next
  template <int kShift, int kMask>
  static Bytes join(Bytes a, Bytes b) {
    if constexpr (kShift > 0) b = _mm512_slli_epi16(b, kShift);
    if constexpr (kShift < 0) b = _mm512_srli_epi16(b, -kShift);
    return _mm512_ternarylogic_epi32(a, b, _mm512_set1_epi8(kMask), 0xf8);
  }
  template <bool kWide>
  static Ints dot(Ints sum, Bytes weights, const std::int8_t* inputs) {
    std::int32_t four;
    __builtin_memcpy(&four, inputs, sizeof four);
    return _mm512_dpbusd_epi32(sum, weights, _mm512_set1_epi32(four));
  }

  static Ints zero_ints() { return _mm512_setzero_si512(); }
  static Ints set_ints(const std::int32_t* from) { return _mm512_set1_epi32(*from); }
  static Ints add_ints(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  static std::int32_t sum_ints(Ints a) { return _mm512_reduce_add_epi32(a); }
  static Ints to_ints(Floats a) { return _mm512_cvtps_epi32(a); }
  static void store_quants(std::int8_t* to, Ints a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(a));
  }

  static Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
  static Floats zero() { return _mm512_setzero_ps(); }
  static Floats set(const float* from) { return _mm512_set1_ps(*from); }
  static Floats load(const float* from) { return _mm512_loadu_ps(from); }
  static Floats load_some(const float* from, std::size_t count) {
    return _mm512_maskz_loadu_ps(first_lanes(count), from);
  }
  static void store_some(float* to, Floats a, std::size_t count) { _mm512_mask_storeu_ps(to, first_lanes(count), a); }
  static Floats load_f16(const std::byte* from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  }
  static Floats load_u8(const std::byte* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  }
  static Floats load_i8(const std::byte* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  }
  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  // The larger of a and |b|; a where b is a NaN.
  static Floats max_abs(Floats a, Floats b) { return _mm512_max_ps(_mm512_abs_ps(b), a); }
  static float highest(Floats a) { return _mm512_reduce_max_ps(a); }
};

}  // namespace
}  // namespace troupe::kernels
