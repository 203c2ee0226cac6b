// VectorOps::linear_tile over a vector type V (see vector_loops.h).

#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/vector_access.h"

namespace troupe::kernels {
namespace {

// Ahead of the weights being read, where the only tile of rows reads them from memory: measured best for one row.
constexpr std::size_t kPrefetchBytes = 4096;

template <class V, DType D, std::size_t kRows, std::size_t kVectors>
void linear_tile_of(const LinearTile& tile) {
  constexpr std::size_t kWidth = V::kWidth;
  constexpr std::size_t kFeatureBytes = kVectors * kWidth * size_of(D);
  typename V::Reg sums[kRows][kVectors];
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      sums[r][v] = tile.continues ? V::load(tile.out + r * tile.out_stride + v * kWidth) : V::set(0.0f);
    }
  }
  const float* in = tile.in;
  for (std::size_t k = 0; k < tile.depth; ++k, ++in) {
    for (std::size_t line = 0; line < kFeatureBytes; line += 64) {
      __builtin_prefetch(static_cast<const char*>(tile.panel) + k * kFeatureBytes + kPrefetchBytes + line);
    }
    // All weights, then one input after the other: the other way round needs a register more than AVX2 has.
    typename V::Reg weights[kVectors];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) weights[v] = load<V, D>(tile.panel, (k * kVectors + v) * kWidth);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      const auto x = V::set(in[r * tile.in_stride]);
#pragma GCC unroll 8
      for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = V::fma(x, weights[v], sums[r][v]);
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kVectors; ++v) V::store(tile.out + r * tile.out_stride + v * kWidth, sums[r][v]);
  }
}

template <class V, DType D, std::size_t kRows>
void linear_tile_rows(const LinearTile& tile) {
  if constexpr (kRows > 1) {
    if (tile.rows < kRows) return linear_tile_rows<V, D, kRows - 1>(tile);
  }
  switch (tile.vectors) {
    case 1: return linear_tile_of<V, D, kRows, 1>(tile);
    case 2: return linear_tile_of<V, D, kRows, 2>(tile);
    case 3: return linear_tile_of<V, D, kRows, 3>(tile);
    default:
      if constexpr (V::kPanelVectors > 3) return linear_tile_of<V, D, kRows, 4>(tile);
  }
}

template <class V>
void linear_tile(DType dtype, const LinearTile& tile) {
  static_assert(V::kPanelVectors == 3 || V::kPanelVectors == 4);
  switch (dtype) {
    case DType::kF16: return linear_tile_rows<V, DType::kF16, V::kTileRows>(tile);
    case DType::kBF16: return linear_tile_rows<V, DType::kBF16, V::kTileRows>(tile);
    default: return linear_tile_rows<V, DType::kF32, V::kTileRows>(tile);
  }
}

}  // namespace
}  // namespace troupe::kernels
