#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/ahead.h"
#include "kernels/cpu/vector_ops.h"

namespace troupe::kernels {
namespace {

constexpr std::size_t kBlockRows = 16;
constexpr std::size_t kTileBytes = 1024;
constexpr std::size_t kFeatures = 32;

// Ahead of the tile being read: measured best for one row, whose loop waits for nothing but memory. Loads of tiles are
// slow to ask for their lines, and what is asked for too early takes the place of what is needed first.
constexpr std::size_t kPrefetchBytes = 512;

// Registers 0 to 3 hold sums, 4 and 5 the two parts of the input, 6 and 7 the weights.
void configure(std::size_t rows) {
  struct alignas(64) {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {};
  } config;
  for (std::size_t tile = 0; tile < 8; ++tile) config.rows[tile] = static_cast<std::uint8_t>(tile < 6 ? rows : 16);
  _tile_loadconfig(&config);
}

// One block of at most 16 rows, which asks for what it reads itself where it is the only one. Every sum is one chain in
// the order of depth, the leading parts of 32 features before their trailing parts, however many rows and vectors there
// are.
template <std::size_t kVectors>
void multiply_block(const TileMultiply& call, const std::byte* in, std::size_t rows, float* out, bool is_alone,
                    Ahead& ahead) {
  const std::size_t part_bytes = rows * 2 * kFeatures;
  const std::size_t out_bytes = call.out_stride * sizeof(float);
  if (call.first == 0) {
    _tile_zero(0);
    if constexpr (kVectors > 1) _tile_zero(1);
    if constexpr (kVectors > 2) _tile_zero(2);
    if constexpr (kVectors > 3) _tile_zero(3);
  } else {
    _tile_loadd(0, out, out_bytes);
    if constexpr (kVectors > 1) _tile_loadd(1, out + 16, out_bytes);
    if constexpr (kVectors > 2) _tile_loadd(2, out + 32, out_bytes);
    if constexpr (kVectors > 3) _tile_loadd(3, out + 48, out_bytes);
  }
  for (std::size_t depth = 0; depth < call.depth; ++depth) {
    const std::byte* tiles = call.panel + depth * kVectors * kTileBytes;
    const std::byte* parts = in + (call.first + depth) * 2 * part_bytes;
    if (!is_alone) {
      ahead.step();
      // The next inputs, which lie in the second-level cache; the weights are in the first from the second block on.
#pragma GCC unroll 32
      for (std::size_t line = 0; line < 2 * kTileBytes; line += 64) {
        __builtin_prefetch(parts + 2 * kTileBytes + line);
      }
    } else {
#pragma GCC unroll 64
      for (std::size_t line = 0; line < kVectors * kTileBytes / 64; ++line) {
        _mm_prefetch(reinterpret_cast<const char*>(tiles) + kPrefetchBytes + line * 64, _MM_HINT_T0);
      }
    }
    _tile_loadd(4, parts, 64);
    _tile_loadd(5, parts + part_bytes, 64);
    _tile_loadd(6, tiles, 64);
    if constexpr (kVectors > 1) _tile_loadd(7, tiles + kTileBytes, 64);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (kVectors > 1) _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(0, 5, 6);
    if constexpr (kVectors > 1) _tile_dpbf16ps(1, 5, 7);
    if constexpr (kVectors > 2) {
      _tile_loadd(6, tiles + 2 * kTileBytes, 64);
      if constexpr (kVectors > 3) _tile_loadd(7, tiles + 3 * kTileBytes, 64);
      _tile_dpbf16ps(2, 4, 6);
      if constexpr (kVectors > 3) _tile_dpbf16ps(3, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      if constexpr (kVectors > 3) _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, out, out_bytes);
  if constexpr (kVectors > 1) _tile_stored(1, out + 16, out_bytes);
  if constexpr (kVectors > 2) _tile_stored(2, out + 32, out_bytes);
  if constexpr (kVectors > 3) _tile_stored(3, out + 48, out_bytes);
}

template <std::size_t kVectors>
void multiply_of(const TileMultiply& call) {
  const std::size_t block_bytes = kBlockRows * call.in_depth * kFeatures * 4;
  const std::size_t blocks = (call.rows + kBlockRows - 1) / kBlockRows;
  Ahead ahead(call.next, call.next_bytes, blocks * call.depth);
  std::size_t configured = 0;
  for (std::size_t row = 0; row < call.rows; row += kBlockRows) {
    const std::size_t rows = call.rows - row < kBlockRows ? call.rows - row : kBlockRows;
    if (rows != configured) configure(configured = rows);
    multiply_block<kVectors>(call, call.in + row / kBlockRows * block_bytes, rows, call.out + row * call.out_stride,
                             blocks == 1, ahead);
  }
  _tile_release();
}

void multiply(const TileMultiply& call) {
  switch (call.vectors) {
    case 1: return multiply_of<1>(call);
    case 2: return multiply_of<2>(call);
    case 3: return multiply_of<3>(call);
    default: return multiply_of<4>(call);
  }
}

// Numbers so large that rounding may make them infinite.
__mmask16 huge(__m512 value) {
  const __m512i magnitude = _mm512_and_si512(_mm512_castps_si512(value), _mm512_set1_epi32(0x7fffffff));
  return _mm512_cmpgt_epu32_mask(magnitude, _mm512_set1_epi32(0x7f7f0000));
}

// 16 floats as 16 BF16, in the upper halves: rounded to nearest, or cut off where `cut` says so. A NaN stays one.
__m512i to_bf16(__m512 value, __mmask16 cut) {
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(value, value, _CMP_UNORD_Q);
  __m512i part = _mm512_mask_blend_epi32(cut, rounded, bits);
  part = _mm512_mask_or_epi32(part, is_nan, bits, _mm512_set1_epi32(0x400000));
  return _mm512_and_si512(part, _mm512_set1_epi32(static_cast<int>(0xffff0000)));
}

__m256i halves(__m512i part) { return _mm512_cvtepi32_epi16(_mm512_srli_epi32(part, 16)); }

void split(const float* in, std::size_t stride, std::size_t rows, std::size_t cols, std::byte* out) {
  const std::size_t part_bytes = rows * 2 * kFeatures;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t col = 0; col < (cols + kFeatures - 1) / kFeatures * kFeatures; col += 16) {
      const std::size_t left = col < cols ? cols - col : 0;
      const auto lanes = static_cast<__mmask16>(left >= 16 ? 0xffff : (1u << left) - 1);
      const __m512 value = _mm512_maskz_loadu_ps(lanes, in + row * stride + col);
      const __mmask16 cut = huge(value);
      const __m512i leading = to_bf16(value, cut);
      const __m512 rest = _mm512_sub_ps(value, _mm512_castsi512_ps(leading));
      // Of an infinity or a NaN the leading part says it all, and the difference would be a NaN.
      const __mmask16 is_number = _mm512_cmp_ps_mask(rest, rest, _CMP_ORD_Q);
      const __m512i trailing = to_bf16(_mm512_maskz_mov_ps(is_number, rest), cut);
      std::byte* to = out + col / kFeatures * 2 * part_bytes + row * 2 * kFeatures + col % kFeatures * 2;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), halves(leading));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + part_bytes), halves(trailing));
    }
  }
}

}  // namespace

constexpr TileOps kAmxTileOps = {.parts = 2, .tiles_apart = true, .split = split, .multiply = multiply};

}  // namespace troupe::kernels
