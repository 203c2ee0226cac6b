#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/quant.h"

namespace troupe::kernels {

// A product with quantised weights, by formula, to the bit the same in every implementation of this table:
//
//   acc = 0; for each block of 32 inputs in order (of 16 in Q6_K):
//     acc = fma(float(sum of (q - offset) * a), weight_scale * input_scale, acc)
//     with mins: acc = fma(weight_min, -(input_scale * sum of a), acc)
//   out = acc + bias
//
// a being inputs quantised to int8 with a scale for each 32 of a row. Whole numbers are summed exactly, in any order;
// in kInt8 over the whole row, which has one scale: out = fma(float(sum), weight_scale * input_scale, bias).

// Inputs that lie together in a quantised activation, in chunks of a weight's panel too.
constexpr std::size_t kInputChunk = 64;
constexpr std::size_t kInputBlock = 32;  // share a scale

// Rows of inputs go in tiles of at most QuantisedOps::tile_rows, powers of two: as many full tiles as there are, then
// ever smaller ones. A tile of R rows starts where R rows lie behind `first_row` rows: quants (chunks, R, 64), scales
// (blocks, R), starts or min_sums (blocks, R).
struct QuantisedRows {
  DType dtype = DType::kQ8_0;  // of the weight that they are for
  std::int8_t* quants = nullptr;
  float* scales = nullptr;         // one a block, or one a row for kInt8
  std::int32_t* starts = nullptr;  // -offset * sum of a: where the sum of q * a starts; a block, a half, or a row
  float* min_sums = nullptr;       // -(scale * sum of a) a block, for formats with mins, which have no starts
  std::size_t cols = 0;            // padded with zeros to whole chunks of the weight
};

// Numbers of a row: of scales, and of starts or min_sums.
constexpr std::size_t scales_of(DType dtype, std::size_t cols) {
  return dtype == DType::kInt8 ? 1 : cols / kInputBlock;
}
constexpr std::size_t starts_of(DType dtype, std::size_t cols) {
  return dtype == DType::kQ6_K ? cols / 16 : scales_of(dtype, cols);
}

// A tile as a part of QuantisedRows: rows [first, first + count).
struct InputTile {
  std::size_t first = 0;
  std::size_t count = 0;
};

// out(rows, outs) = inputs * panels.
struct QuantisedCall {
  QuantisedRows in;
  std::size_t first_row = 0;  // a multiple of tile_rows
  std::size_t rows = 0;
  const std::byte* panels = nullptr;  // of QuantisedPanels, one behind the other
  std::size_t panel_bytes = 0;
  const float* out_scales = nullptr;  // kInt8: (outs)
  const float* bias = nullptr;        // (outs) or null
  float* out = nullptr;               // of first_row
  std::size_t out_stride = 0;
  std::size_t outs = 0;          // at least 1; every panel but the last has kPanelOuts
  std::byte* scratch = nullptr;  // 64-aligned, (cols, kPanelOuts) bytes of this thread's
};

struct QuantisedOps {
  std::size_t tile_rows;
  // Rows that go through one panel after the other: few, where they stay in the first-level cache and a piece's panels
  // in the second; as many as there are, where a panel takes work before it can be multiplied. A multiple of tile_rows.
  std::size_t rows_together;
  // How many tiles of rows and panels are multiplied with each other at once: multiples of both leave nothing over.
  std::size_t tiles_together;
  std::size_t panels_together;

  // Row `row` of a tile; in: (cols), cols up to to.cols.
  void (*quantise_row)(const float* in, std::size_t cols, const QuantisedRows& to, InputTile tile, std::size_t row);
  void (*multiply)(const QuantisedCall& call);
};

extern const QuantisedOps kAvx2QuantisedOps;
extern const QuantisedOps kAvxVnniQuantisedOps;  // AVX2 with its VNNI
extern const QuantisedOps kAvx512QuantisedOps;   // AVX-512 with its VNNI
extern const QuantisedOps kAmxQuantisedOps;      // and with AMX's int8 tiles

}  // namespace troupe::kernels
