// The vector type of kernels/cpu/quantised_loops.h for AVX2, with or without its VNNI: 16 outputs are two registers.

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace troupe::kernels {
namespace {

template <bool kVnni>
struct Pair256 {
  struct Bytes {
    __m256i low, high;
  };
  using Ints = Bytes;
  struct Floats {
    __m256 low, high;
  };
  static constexpr std::size_t kTileRows = 4;
  static constexpr bool kSigned = !kVnni;

  static const __m256i* at(const void* from) { return static_cast<const __m256i*>(from); }

  static Bytes load_bytes(const std::byte* from) {
    return {_mm256_loadu_si256(at(from)), _mm256_loadu_si256(at(from + 32))};
  }
  static Bytes lower_nibbles(Bytes a) {
    const __m256i mask = _mm256_set1_epi8(0x0f);
    return {_mm256_and_si256(a.low, mask), _mm256_and_si256(a.high, mask)};
  }
  static Bytes upper_nibbles(Bytes a) {
    return lower_nibbles({_mm256_srli_epi16(a.low, 4), _mm256_srli_epi16(a.high, 4)});
  }
  // a | (b shifted left by kShift) & kMask; the mask keeps bits of one byte out of the next
  template <int kShift, int kMask>
  static Bytes join(Bytes a, Bytes b) {
    return {join_half<kShift, kMask>(a.low, b.low), join_half<kShift, kMask>(a.high, b.high)};
  }
  template <int kShift, int kMask>
  static __m256i join_half(__m256i a, __m256i b) {
    if constexpr (kShift > 0) b = _mm256_slli_epi16(b, kShift);
    if constexpr (kShift < 0) b = _mm256_srli_epi16(b, -kShift);
    return _mm256_or_si256(a, _mm256_and_si256(b, _mm256_set1_epi8(kMask)));
  }
  template <bool kWide>
  static Ints dot(Ints sum, Bytes weights, const std::int8_t* inputs) {
    std::int32_t four;
    __builtin_memcpy(&four, inputs, sizeof four);
    const __m256i in = _mm256_set1_epi32(four);
    return {dot_half<kWide>(sum.low, weights.low, in), dot_half<kWide>(sum.high, weights.high, in)};
  }
  template <bool kWide>
  static __m256i dot_half(__m256i sum, __m256i weights, __m256i in) {
#ifdef __AVXVNNI__
    if constexpr (kVnni) return _mm256_dpbusd_avx_epi32(sum, weights, in);
#endif
    if constexpr (kWide) {
      // |w - 128| times a with the sign of w - 128: at most 128 * 127, and two of them still fit into 16 bits.
      weights = _mm256_xor_si256(weights, _mm256_set1_epi8(-128));
      in = _mm256_sign_epi8(in, weights);
      weights = _mm256_abs_epi8(weights);
    }
    const __m256i pairs = _mm256_maddubs_epi16(weights, in);
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    // GCC would first make all products of an unrolled loop, for which there are no registers, and then add them up.
    asm("" : "+x"(sum));
    return sum;
  }

  static Ints zero_ints() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static Ints set_ints(const std::int32_t* from) { return {_mm256_set1_epi32(*from), _mm256_set1_epi32(*from)}; }
  static Ints add_ints(Ints a, Ints b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
  static std::int32_t sum_ints(Ints a) {
    const __m256i both = _mm256_add_epi32(a.low, a.high);
    __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1));
    sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0b01'00'11'10));
    return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0b10'11'00'01)));
  }
  static Ints to_ints(Floats a) { return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)}; }
  static void store_quants(std::int8_t* to, Ints a) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.low, a.high), 0b11'01'10'00);
    const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
  }

  static Floats to_floats(Ints a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
  static Floats zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Floats set(const float* from) { return {_mm256_set1_ps(*from), _mm256_set1_ps(*from)}; }
  static Floats load(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
  static __m256i first_lanes(std::size_t count, int first) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count) - first), lane);
  }
  static Floats load_some(const float* from, std::size_t count) {
    return {_mm256_maskload_ps(from, first_lanes(count, 0)), _mm256_maskload_ps(from + 8, first_lanes(count, 8))};
  }
  static void store_some(float* to, Floats a, std::size_t count) {
    _mm256_maskstore_ps(to, first_lanes(count, 0), a.low);
    _mm256_maskstore_ps(to + 8, first_lanes(count, 8), a.high);
  }
  static __m128i sixteen_bytes(const std::byte* from) {
    return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  }
  static Floats load_f16(const std::byte* from) {
    return {_mm256_cvtph_ps(sixteen_bytes(from)), _mm256_cvtph_ps(sixteen_bytes(from + 16))};
  }
  static Floats load_u8(const std::byte* from) {
    const __m128i bytes = sixteen_bytes(from);
    return to_floats({_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))});
  }
  static Floats load_i8(const std::byte* from) {
    const __m128i bytes = sixteen_bytes(from);
    return to_floats({_mm256_cvtepi8_epi32(bytes), _mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))});
  }
  static Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
  static Floats mul(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
  static Floats fma(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  // The larger of a and |b|; a where b is a NaN.
  static Floats max_abs(Floats a, Floats b) {
    const __m256 magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return {_mm256_max_ps(_mm256_and_ps(b.low, magnitude), a.low),
            _mm256_max_ps(_mm256_and_ps(b.high, magnitude), a.high)};
  }
  static float highest(Floats a) {
    const __m256 both = _mm256_max_ps(a.low, a.high);
    __m128 most = _mm_max_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1));
    most = _mm_max_ps(most, _mm_movehl_ps(most, most));
    return _mm_cvtss_f32(_mm_max_ss(most, _mm_movehdup_ps(most)));
  }
};

}  // namespace
}  // namespace troupe::kernels
