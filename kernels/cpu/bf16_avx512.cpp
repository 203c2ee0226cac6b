#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/ahead.h"
#include "kernels/cpu/vector_ops.h"

namespace troupe::kernels {
namespace {

// BF16 times BF16 with AVX-512's products of pairs: two features of 16 outputs in one instruction, at the rate of a
// float32 multiply-add, and the weights as they are stored.
constexpr std::size_t kBlockRows = 16;
constexpr std::size_t kTileBytes = 1024;
constexpr std::size_t kTilePairs = 16;
constexpr std::size_t kFeatures = 32;

// 6 rows of 4 vectors keep 24 sums, 4 weights and an input in the 32 registers.
constexpr std::size_t kTileRows = 6;

// Tiles along the depth that the rows of a call go through together: 16 KiB of four vectors, which come from memory
// once, while the 16 KiB before them are multiplied.
constexpr std::size_t kDepthBlock = 4;

// Rows that go through a panel in one pass read it at the speed of memory: how far ahead of them it is asked for.
constexpr std::size_t kLead = 8192;

// Pairs of features after which lines of what is ahead are asked for: all at once are more than a core can wait for.
constexpr std::size_t kAskPairs = 2;

// The rows of one block of inputs that go through `depth` tiles together, from tile `first` on.
struct Stretch {
  const std::byte* in;     // of the first row: (in_depth, block_rows, 32) BF16
  std::size_t block_rows;  // of the block
  const std::byte* panel;  // (depth, vectors) tiles
  std::size_t first;
  std::size_t depth;
  float* out;
  std::size_t out_stride;
};

// Every sum is one chain over pairs of features, however many rows and vectors there are.
template <std::size_t kRows, std::size_t kVectors, bool kOnePass>
void multiply_stretch(const Stretch& at, Ahead& ahead) {
  __m512 sums[kRows][kVectors];
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) {
      sums[r][v] = at.first == 0 ? _mm512_setzero_ps() : _mm512_loadu_ps(at.out + r * at.out_stride + v * 16);
    }
  }
  const std::byte* tiles = at.panel;
  const std::byte* inputs = at.in + at.first * at.block_rows * 2 * kFeatures;
  for (std::size_t depth = 0; depth < at.depth; ++depth) {
#pragma GCC unroll 2
    for (std::size_t pair = 0; pair < kTilePairs; ++pair) {
      if constexpr (kOnePass) {
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v) {
          _mm_prefetch(tiles + kLead + 64 * (pair * kVectors + v), _MM_HINT_T0);
        }
      } else if (pair % kAskPairs == 0) {
        ahead.step();
      }
      __m512i weights[kVectors];
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) weights[v] = _mm512_loadu_si512(tiles + 64 * (pair * kVectors + v));
#pragma GCC unroll 8
      for (std::size_t r = 0; r < kRows; ++r) {
        std::int32_t two;
        __builtin_memcpy(&two, inputs + r * 2 * kFeatures + 4 * pair, sizeof two);
        const auto both = (__m512bh)_mm512_set1_epi32(two);
#pragma GCC unroll 4
        for (std::size_t v = 0; v < kVectors; ++v) {
          sums[r][v] = _mm512_dpbf16_ps(sums[r][v], (__m512bh)weights[v], both);
        }
      }
    }
    tiles += kVectors * kTileBytes;
    inputs += at.block_rows * 2 * kFeatures;
  }
#pragma GCC unroll 8
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) _mm512_storeu_ps(at.out + r * at.out_stride + v * 16, sums[r][v]);
  }
}

template <std::size_t kRows, std::size_t kVectors, bool kOnePass>
void multiply_rows(std::size_t rows, const Stretch& at, Ahead& ahead) {
  if constexpr (kRows > 1) {
    if (rows < kRows) return multiply_rows<kRows - 1, kVectors, kOnePass>(rows, at, ahead);
  }
  multiply_stretch<kRows, kVectors, kOnePass>(at, ahead);
}

std::size_t least(std::size_t a, std::size_t b) { return a < b ? a : b; }

std::size_t divide_up(std::size_t value, std::size_t divisor) { return (value + divisor - 1) / divisor; }

// Rows of the call that go through the panel after others.
std::size_t passes_of(std::size_t rows) {
  return rows / kBlockRows * divide_up(kBlockRows, kTileRows) + divide_up(rows % kBlockRows, kTileRows);
}

// All rows of the call through `depth` tiles of the panel.
template <std::size_t kVectors, bool kOnePass>
void multiply_depth(const TileMultiply& call, std::size_t first, std::size_t depth, Ahead ahead) {
  Stretch at;
  at.panel = call.panel + (first - call.first) * kVectors * kTileBytes;
  at.first = first;
  at.depth = depth;
  at.out_stride = call.out_stride;
  for (std::size_t block = 0; block < call.rows; block += kBlockRows) {
    at.block_rows = least(call.rows - block, kBlockRows);
    const std::byte* in = call.in + block * call.in_depth * 2 * kFeatures;
    // Tiles as even as can be: few rows leave too few chains to hide a product's latency.
    const std::size_t tiles = divide_up(at.block_rows, kTileRows);
    for (std::size_t tile = 0; tile < tiles; ++tile) {
      const std::size_t row = tile * at.block_rows / tiles;
      at.in = in + row * 2 * kFeatures;
      at.out = call.out + (block + row) * call.out_stride;
      multiply_rows<kTileRows, kVectors, kOnePass>((tile + 1) * at.block_rows / tiles - row, at, ahead);
    }
  }
}

template <std::size_t kVectors>
void multiply_of(const TileMultiply& call) {
  constexpr std::size_t kDepthBytes = kVectors * kTileBytes;
  const std::size_t bytes = call.depth * kDepthBytes;
  if (passes_of(call.rows) == 1) {
    return multiply_depth<kVectors, true>(call, call.first, call.depth, Ahead(nullptr, 0, 0));
  }
  for (std::size_t done = 0; done == 0 || done < call.depth; done += kDepthBlock) {
    const std::size_t depth = least(call.depth - done, kDepthBlock);
    const std::size_t behind = (done + depth) * kDepthBytes;
    const bool is_last = behind == bytes;
    const Ahead ahead(is_last ? call.next : call.panel + behind,
                      least(is_last ? call.next_bytes : bytes - behind, kDepthBlock * kDepthBytes),
                      passes_of(call.rows) * depth * (kTilePairs / kAskPairs));
    multiply_depth<kVectors, false>(call, call.first + done, depth, ahead);
  }
}

void multiply(const TileMultiply& call) {
  switch (call.vectors) {
    case 1: return multiply_of<1>(call);
    case 2: return multiply_of<2>(call);
    case 3: return multiply_of<3>(call);
    default: return multiply_of<4>(call);
  }
}

// Of numbers so large that rounding would make them infinite, only their leading bits.
__m512 without_overflow(__m512 value) {
  const __m512i bits = _mm512_castps_si512(value);
  const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff));
  const __mmask16 huge = _mm512_cmpgt_epu32_mask(magnitude, _mm512_set1_epi32(0x7f7f0000)) &
                         _mm512_cmplt_epu32_mask(magnitude, _mm512_set1_epi32(0x7f800000));
  return _mm512_castsi512_ps(_mm512_mask_and_epi32(bits, huge, bits, _mm512_set1_epi32(static_cast<int>(0xffff0000))));
}

// Rounded to nearest; numbers too small for an ordinary float32 count as nothing.
void split(const float* in, std::size_t stride, std::size_t rows, std::size_t cols, std::byte* out) {
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t col = 0; col < divide_up(cols, kFeatures) * kFeatures; col += 16) {
      const std::size_t left = col < cols ? cols - col : 0;
      const auto lanes = static_cast<__mmask16>(left >= 16 ? 0xffff : (1u << left) - 1);
      const __m512 value = without_overflow(_mm512_maskz_loadu_ps(lanes, in + row * stride + col));
      std::byte* to = out + (col / kFeatures * rows + row) * 2 * kFeatures + col % kFeatures * 2;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), (__m256i)_mm512_cvtneps_pbh(value));
    }
  }
}

}  // namespace

constexpr TileOps kBf16TileOps = {.parts = 1, .tiles_apart = false, .split = split, .multiply = multiply};

}  // namespace troupe::kernels
