#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/tensor.h"

namespace troupe::kernels {

// Quantised weights: how they are stored, and what they mean.
//
// GGUF's block formats. A row is a sequence of blocks of so many consecutive elements; all numbers little-endian. The
// structs are the layout of the files, f16 numbers as their bits.

// w = d * q
struct BlockQ8_0 {
  static constexpr std::size_t kElements = 32;
  std::uint16_t d;  // f16
  std::int8_t quants[32];
};

// w = d * (q - 8). Byte j holds q of element j in its lower half, of element j + 16 in its upper half.
struct BlockQ4_0 {
  static constexpr std::size_t kElements = 32;
  std::uint16_t d;  // f16
  std::uint8_t quants[16];
};

// w = d * scale[i / 32] * q - dmin * min[i / 32]. Scales and mins have 6 bits, packed as scale_and_min (quant.cpp)
// says. Byte 32 g + j holds q of element 64 g + j in its lower half, of 64 g + 32 + j in its upper half.
struct BlockQ4_K {
  static constexpr std::size_t kElements = 256;
  std::uint16_t d;     // f16
  std::uint16_t dmin;  // f16
  std::uint8_t scales[12];
  std::uint8_t quants[128];
};

// As Q4_K, with a fifth bit: bit i / 32 of upper[i % 32].
struct BlockQ5_K {
  static constexpr std::size_t kElements = 256;
  std::uint16_t d;     // f16
  std::uint16_t dmin;  // f16
  std::uint8_t scales[12];
  std::uint8_t upper[32];
  std::uint8_t quants[128];
};

// w = d * scale[i / 16] * (q - 32). In each half of 128 elements, element 32 g + j has its lower four bits in
// lower[32 (g % 2) + j] (in the byte's lower half for g < 2, else the upper), and bits 4 and 5 at bit 2 g of upper[j].
struct BlockQ6_K {
  static constexpr std::size_t kElements = 256;
  std::uint8_t lower[128];
  std::uint8_t upper[64];
  std::int8_t scales[16];
  std::uint16_t d;  // f16
};

static_assert(sizeof(BlockQ8_0) == 34 && sizeof(BlockQ4_0) == 18);
static_assert(sizeof(BlockQ4_K) == 144 && sizeof(BlockQ5_K) == 176 && sizeof(BlockQ6_K) == 210);

// Our own formats, stored in the layout that the kernels read, so that they are used where they are mapped.
//
// Outputs go in panels of 16. A panel is a sequence of chunks of 64 inputs, whose quants lie as byte-wise dot products
// take them: for every 4 inputs in turn, 16 outputs side by side, 4 bytes each.
//   kInt8: a chunk is q[16][16][4] (64 / 4 inputs, outputs, inputs), 1,024 bytes. w = scale[output] * (q - 128), the
//          scales apart: (rows) f32.
//   kInt4: a chunk is 512 bytes of quants and f16 scale[2][16] (group of 32 inputs, outputs), 576 bytes in all.
//          w = scale * (q - 8). Of each group's 256 bytes, 64 i + j holds q of byte 64 i + j of the layout above in its
//          lower half, of byte 256 + 64 i + j in its upper half.
// The last panel is filled up with outputs that are zero, the last chunk with inputs that are; panels start at
// multiples of 64 bytes. A tensor-parallel rank takes outputs from a multiple of kPanelOuts on and inputs from a
// multiple of kChunkInputs on (slice): a part of the file, to be read where it is.
constexpr std::size_t kPanelOuts = 16;
constexpr std::size_t kChunkInputs = 64;
constexpr std::size_t kInt4Group = 32;
// More inputs than this could overflow a 32-bit sum of kInt8 products.
constexpr std::size_t kMaxInt8Inputs = 65536;

constexpr bool is_block_format(DType dtype) { return dtype >= DType::kQ8_0 && dtype <= DType::kQ6_K; }
constexpr bool is_panel_format(DType dtype) { return dtype == DType::kInt8 || dtype == DType::kInt4; }
constexpr bool is_quantised(DType dtype) { return is_block_format(dtype) || is_panel_format(dtype); }

// Elements that share a block of a block format, inputs of a chunk of a panel format, otherwise 1. A row (and a slice
// of columns) of a block format is whole blocks.
constexpr std::size_t block_elements(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0:
    case DType::kQ4_0: return 32;
    case DType::kQ4_K:
    case DType::kQ5_K:
    case DType::kQ6_K: return 256;
    case DType::kInt8:
    case DType::kInt4: return kChunkInputs;
    default: return 1;
  }
}

// Bytes of one such block; of a panel format's chunk, which is kPanelOuts outputs.
constexpr std::size_t block_bytes(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0: return sizeof(BlockQ8_0);
    case DType::kQ4_0: return sizeof(BlockQ4_0);
    case DType::kQ4_K: return sizeof(BlockQ4_K);
    case DType::kQ5_K: return sizeof(BlockQ5_K);
    case DType::kQ6_K: return sizeof(BlockQ6_K);
    case DType::kInt8: return kPanelOuts * kChunkInputs;
    case DType::kInt4: return kPanelOuts * kChunkInputs / 2 + kPanelOuts * (kChunkInputs / kInt4Group) * 2;
    default: return size_of(dtype);
  }
}

// Bytes of `cols` elements of a row (of a panel, in a panel format). REQUIRES: whole blocks in a block format.
constexpr std::size_t row_bytes(DType dtype, std::size_t cols) {
  return (cols + block_elements(dtype) - 1) / block_elements(dtype) * block_bytes(dtype);
}

// Bytes of a whole matrix of any type, without gaps; of kInt8 without its scales.
constexpr std::size_t matrix_bytes(DType dtype, std::size_t rows, std::size_t cols) {
  const std::size_t stacks = is_panel_format(dtype) ? (rows + kPanelOuts - 1) / kPanelOuts : rows;
  return stacks * row_bytes(dtype, cols);
}

// Outputs [first_row, first_row + rows) and inputs [first_col, first_col + cols) of a weight of any type, in place.
// Every size and offset but those that end the matrix must be a multiple of what a type cannot divide: columns of
// block_elements, rows of kPanelOuts in a panel format.
WeightView slice(const WeightView& whole, std::size_t first_row, std::size_t rows, std::size_t first_col,
                 std::size_t cols);

// What `elements` elements (whole blocks) of a block format stand for.
void dequantize(DType dtype, const void* blocks, std::size_t elements, float* out);

// One row of a weight in any quantised format; out: (cols).
void dequantize_row(const WeightView& weight, std::size_t row, float* out);

// A block of a block format, its quants spread out: w[i] = d * scales[i / scale_elements] * (quants[i] - offset)
// - dmin * mins[i / scale_elements].
struct SpreadBlock {
  std::uint8_t quants[256];
  std::int16_t scales[16];
  std::uint8_t mins[8];
  std::uint16_t d;     // f16
  std::uint16_t dmin;  // f16
};
void spread_block(DType dtype, const void* block, SpreadBlock& spread);

// Elements that share a scale, and the offset of a quant (as a panel stores it).
constexpr std::size_t scale_elements(DType dtype) { return dtype == DType::kQ6_K ? 16 : 32; }
constexpr int quant_offset(DType dtype) {
  switch (dtype) {
    case DType::kQ8_0:
    case DType::kInt8: return 128;
    case DType::kQ4_0:
    case DType::kInt4: return 8;
    case DType::kQ6_K: return 32;
    default: return 0;
  }
}

// Quantises a matrix of floats. `panels` has room for matrix_bytes, which are all written; scales: (rows).
// Inputs must be finite; kInt8 takes up to kMaxInt8Inputs columns.
//
// kInt8: one scale an output, the largest |w| being 127 steps. kInt4: of some scales around the one that fits the
// largest |w|, in either sign, the one that leaves the least squared error in its group.
void quantize_int8(ConstMatrixF32 weight, void* panels, std::span<float> scales);
void quantize_int4(ConstMatrixF32 weight, void* panels);

}  // namespace troupe::kernels
