// The loops of QuantisedOps over a vector type V, which the including file defines:
//   Bytes, Ints, Floats   16 outputs: 4 bytes, an int32, a float each
//   kTileRows             rows whose sums stay in registers; a power of two
//   kSigned               dot of wide quants subtracts their offset of 128 by itself
//   dot<kWide>(sum, w, a) sum + the products of 4 unsigned bytes each with the 4 signed bytes at a
// Everything here has internal linkage: two instruction sets must not share an instance.

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/quantised_formats.h"
#include "kernels/cpu/quantised_ops.h"

namespace troupe::kernels {
namespace {

// How far ahead of the sums weights are asked for: some 60 ns at the speed of one core's reads.
constexpr std::size_t kPrefetchAhead = 2048;

template <std::size_t kBytes>
inline void prefetch(const std::byte* from) {
#pragma GCC unroll 64
  for (std::size_t line = 0; line < kBytes; line += 64) __builtin_prefetch(from + kPrefetchAhead + line);
}

// What a chunk's block asks for: a part of the chunk, since a core can wait for no more than some 20 lines at a time.
template <class Chunk>
constexpr std::size_t kBlockPrefetch = (Chunk::kBytes / 64 + Chunk::kBlocks - 1) / Chunk::kBlocks * 64;

struct TilePointers {
  const std::int8_t* quants;
  const float* scales;
  const std::int32_t* starts;
  const float* min_sums;
};

inline TilePointers tile_at(const QuantisedRows& rows, std::size_t first) {
  const std::size_t starts = first * starts_of(rows.dtype, rows.cols);
  return {rows.quants + first * rows.cols, rows.scales + first * scales_of(rows.dtype, rows.cols), rows.starts + starts,
          rows.min_sums + starts};
}

// The part of a call that begins at `first_out`, a multiple of kPanelOuts, and has at most `outs` outputs.
inline QuantisedCall panels_of(const QuantisedCall& call, std::size_t first_out, std::size_t outs) {
  QuantisedCall part = call;
  part.panels += first_out / kPanelOuts * call.panel_bytes;
  if (part.out_scales != nullptr) part.out_scales += first_out;
  if (part.bias != nullptr) part.bias += first_out;
  part.out += first_out;
  part.outs = call.outs - first_out < outs ? call.outs - first_out : outs;
  return part;
}

// Calls multiply(QuantisedCall) for one panel after the other.
template <class Multiply>
void for_each_panel(const QuantisedCall& call, const Multiply& multiply) {
  for (std::size_t out = 0; out < call.outs; out += kPanelOuts) multiply(panels_of(call, out, kPanelOuts));
}

// From here to multiply_from, calls have one panel.
//
// Inputs of `kBlockInputs` (32 or 16) times their weights, for kGroup rows of a tile of kRows at a time, so that as
// many chains of sums run beside each other.
template <class V, class Chunk, std::size_t kRows>
void multiply_tile(const QuantisedCall& call, std::size_t first) {
  constexpr std::size_t kGroup = kRows < 4 ? kRows : 4;
  constexpr std::size_t kVectors = 8 / Chunk::kSubs;  // of quants that share a scale
  TilePointers in = tile_at(call.in, first);
  const std::byte* panel = call.panels;
  typename V::Floats sums[kRows];
#pragma GCC unroll 16
  for (auto& sum : sums) sum = V::zero();

  const std::size_t chunks = call.in.cols / (Chunk::kBlocks * kInputBlock);
  for (std::size_t c = 0; c < chunks; ++c, panel += Chunk::kBytes) {
    const Chunk chunk(panel);
#pragma GCC unroll 2
    for (std::size_t block = 0; block < Chunk::kBlocks; ++block) {
      prefetch<kBlockPrefetch<Chunk>>(panel + block * kBlockPrefetch<Chunk>);
      typename V::Bytes weights[8];
      chunk.quants(block, weights);
      const std::int8_t* quants = in.quants + block / 2 * kRows * kInputChunk + block % 2 * kInputBlock;
#pragma GCC unroll 2
      for (std::size_t sub = 0; sub < Chunk::kSubs; ++sub) {
        const auto scale = chunk.scale(block, sub);
#pragma GCC unroll 4
        for (std::size_t group = 0; group < kRows; group += kGroup) {
          typename V::Ints dots[kGroup];
#pragma GCC unroll 4
          for (std::size_t r = 0; r < kGroup; ++r) {
            if constexpr (Chunk::kOffset == 0 || (Chunk::kWide && V::kSigned)) {
              dots[r] = V::zero_ints();
            } else {
              dots[r] = V::set_ints(in.starts + sub * kRows + group + r);
            }
          }
#pragma GCC unroll 8
          for (std::size_t i = 0; i < kVectors; ++i) {
#pragma GCC unroll 4
            for (std::size_t r = 0; r < kGroup; ++r) {
              const std::size_t vector = sub * kVectors + i;
              dots[r] = V::template dot<Chunk::kWide>(dots[r], weights[vector],
                                                      quants + (group + r) * kInputChunk + 4 * vector);
            }
          }
#pragma GCC unroll 4
          for (std::size_t r = 0; r < kGroup; ++r) {
            const auto both = V::mul(scale, V::set(in.scales + group + r));
            sums[group + r] = V::fma(V::to_floats(dots[r]), both, sums[group + r]);
          }
        }
      }
      if constexpr (Chunk::kMins) {
        const auto min = chunk.min(block);
#pragma GCC unroll 16
        for (std::size_t r = 0; r < kRows; ++r) sums[r] = V::fma(min, V::set(in.min_sums + r), sums[r]);
      }
      in.scales += kRows;
      in.starts += Chunk::kSubs * kRows;
      in.min_sums += kRows;
    }
    in.quants += Chunk::kBlocks / 2 * kRows * kInputChunk;
  }

  const auto bias = call.bias != nullptr ? V::load_some(call.bias, call.outs) : V::zero();
#pragma GCC unroll 16
  for (std::size_t r = 0; r < kRows; ++r) {
    float* out = call.out + (first - call.first_row + r) * call.out_stride;
    V::store_some(out, V::add(sums[r], bias), call.outs);
  }
}

// What is left once a row's products of kInt8 are summed.
template <class V>
void finish_int8(const QuantisedCall& call, std::size_t row, typename V::Ints sum, const float* in_scale) {
  const auto scale = V::mul(V::load_some(call.out_scales, call.outs), V::set(in_scale));
  const auto bias = call.bias != nullptr ? V::load_some(call.bias, call.outs) : V::zero();
  V::store_some(call.out + (row - call.first_row) * call.out_stride, V::fma(V::to_floats(sum), scale, bias), call.outs);
}

template <class V, std::size_t kRows>
void multiply_int8_tile(const QuantisedCall& call, std::size_t first) {
  constexpr std::size_t kChains = kRows < 4 ? 4 / kRows : 1;  // a row's, added up at the end
  const TilePointers in = tile_at(call.in, first);
  typename V::Ints sums[kRows][kChains];
#pragma GCC unroll 16
  for (std::size_t r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (std::size_t chain = 0; chain < kChains; ++chain) {
      sums[r][chain] = chain == 0 && !V::kSigned ? V::set_ints(in.starts + r) : V::zero_ints();
    }
  }
  const std::byte* panel = call.panels;
  const std::int8_t* quants = in.quants;
  for (std::size_t c = 0; c < call.in.cols / kInputChunk; ++c) {
    prefetch<1024>(panel);
#pragma GCC unroll 16
    for (std::size_t i = 0; i < 16; ++i) {
      const auto weights = V::load_bytes(panel + 64 * i);
#pragma GCC unroll 16
      for (std::size_t r = 0; r < kRows; ++r) {
        auto& sum = sums[r][i % kChains];
        sum = V::template dot<true>(sum, weights, quants + r * kInputChunk + 4 * i);
      }
    }
    panel += 1024;
    quants += kRows * kInputChunk;
  }
#pragma GCC unroll 16
  for (std::size_t r = 0; r < kRows; ++r) {
    auto sum = sums[r][0];
#pragma GCC unroll 4
    for (std::size_t chain = 1; chain < kChains; ++chain) sum = V::add_ints(sum, sums[r][chain]);
    finish_int8<V>(call, first + r, sum, in.scales + r);
  }
}

template <class V, std::size_t kRows>
void multiply_rows(const QuantisedCall& call, std::size_t first) {
  switch (call.in.dtype) {
    case DType::kQ8_0: return multiply_tile<V, ChunkQ8_0<V>, kRows>(call, first);
    case DType::kQ4_0:
    case DType::kInt4: return multiply_tile<V, ChunkQ4_0<V>, kRows>(call, first);
    case DType::kQ5_0: return multiply_tile<V, ChunkQ5_0<V>, kRows>(call, first);
    case DType::kQ4_K: return multiply_tile<V, ChunkQ4_K<V>, kRows>(call, first);
    case DType::kQ5_K: return multiply_tile<V, ChunkQ5_K<V>, kRows>(call, first);
    case DType::kQ6_K: return multiply_tile<V, ChunkQ6_K<V>, kRows>(call, first);
    default: return multiply_int8_tile<V, kRows>(call, first);
  }
}

// Rows [first, end) of the call in tiles of kRows, the rest in ever smaller ones.
template <class V, std::size_t kRows>
void multiply_from(const QuantisedCall& call, std::size_t first, std::size_t end) {
  for (; end - first >= kRows; first += kRows) multiply_rows<V, kRows>(call, first);
  if constexpr (kRows > 1) multiply_from<V, kRows / 2>(call, first, end);
}

template <class V>
void multiply(const QuantisedCall& call) {
  for_each_panel(call, [](const QuantisedCall& panel) {
    multiply_from<V, V::kTileRows>(panel, panel.first_row, panel.first_row + panel.rows);
  });
}

// The largest |x|, a NaN being passed over.
template <class V>
float largest_of(const float* in, std::size_t count) {
  auto largest = V::zero();
  std::size_t i = 0;
  for (; i + 16 <= count; i += 16) largest = V::max_abs(largest, V::load(in + i));
  if (i < count) largest = V::max_abs(largest, V::load_some(in + i, count - i));
  return V::highest(largest);
}

// 127 steps to the largest |x|. What is smaller than a float32's inverse can express counts as nothing.
inline float steps_a_unit(float largest) { return largest > 1e-35f && largest < 1e38f ? 127.0f / largest : 0.0f; }

// Quantises the first `count` of 16 numbers; what follows them is zero. `steps`: to a unit.
template <class V>
typename V::Ints quantise_16(const float* in, std::size_t count, float steps, std::int8_t* to) {
  const auto numbers = count >= 16 ? V::load(in) : V::load_some(in, count);
  const auto quants = V::to_ints(V::mul(numbers, V::set(&steps)));
  V::store_quants(to, quants);
  return quants;
}

// One scale for all of a row.
template <class V>
void quantise_whole_row(const float* in, std::size_t cols, const QuantisedRows& to, InputTile tile, std::size_t row) {
  const float largest = largest_of<V>(in, cols);
  const float steps = steps_a_unit(largest);
  std::int8_t* quants = to.quants + tile.first * to.cols + row * kInputChunk;
  auto total = V::zero_ints();
  for (std::size_t start = 0; start < to.cols; start += kInputChunk, quants += tile.count * kInputChunk) {
#pragma GCC unroll 4
    for (std::size_t i = 0; i < kInputChunk; i += 16) {
      const std::size_t left = start + i < cols ? cols - start - i : 0;
      total = V::add_ints(total, quantise_16<V>(in + start + i, left, steps, quants + i));
    }
  }
  to.scales[tile.first + row] = steps == 0 ? 0 : largest / 127;
  to.starts[tile.first + row] = -quant_offset(to.dtype) * V::sum_ints(total);
}

template <class V>
void quantise_row(const float* in, std::size_t cols, const QuantisedRows& to, InputTile tile, std::size_t row) {
  if (to.dtype == DType::kInt8) return quantise_whole_row<V>(in, cols, to, tile, row);
  const bool halves = to.dtype == DType::kQ6_K;
  const bool mins = to.dtype == DType::kQ4_K || to.dtype == DType::kQ5_K;
  const std::int32_t offset = quant_offset(to.dtype);
  std::int8_t* quants = to.quants + tile.first * to.cols + row * kInputChunk;
  const std::size_t first_start = tile.first * starts_of(to.dtype, to.cols) + row;
  float* scales = to.scales + tile.first * scales_of(to.dtype, to.cols) + row;

  for (std::size_t block = 0; block < to.cols / kInputBlock; ++block) {
    const std::size_t start = block * kInputBlock;
    const std::size_t count = start >= cols ? 0 : cols - start < kInputBlock ? cols - start : kInputBlock;
    std::int8_t* block_quants = quants + block / 2 * tile.count * kInputChunk + block % 2 * kInputBlock;
    const float largest = largest_of<V>(in + start, count);
    const float steps = steps_a_unit(largest);
    const float scale = steps == 0 ? 0 : largest / 127;
    scales[block * tile.count] = scale;
    const auto first = quantise_16<V>(in + start, count, steps, block_quants);
    const auto second = quantise_16<V>(in + start + 16, count > 16 ? count - 16 : 0, steps, block_quants + 16);
    if (halves) {
      to.starts[first_start + 2 * block * tile.count] = -offset * V::sum_ints(first);
      to.starts[first_start + (2 * block + 1) * tile.count] = -offset * V::sum_ints(second);
      continue;
    }
    const std::int32_t sum = V::sum_ints(V::add_ints(first, second));
    if (mins) {
      to.min_sums[first_start + block * tile.count] = -(scale * static_cast<float>(sum));
    } else {
      to.starts[first_start + block * tile.count] = -offset * sum;
    }
  }
}

template <class V>
constexpr QuantisedOps quantised_ops() {
  return {.tile_rows = V::kTileRows,
          .rows_together = 16,
          .tiles_together = 1,
          .panels_together = 1,
          .quantise_row = quantise_row<V>,
          .multiply = multiply<V>};
}

}  // namespace
}  // namespace troupe::kernels
