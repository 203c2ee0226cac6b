#include "kernels/cuda/embed.h"

#include <cassert>

#include "kernels/cuda/simt.h"
#include "kernels/quant.h"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

__device__ __forceinline__ float number_of_f16(std::uint16_t bits) { return __half2float(__ushort_as_half(bits)); }

// What element i of a block stands for; kernels/quant.h has the formats.

__device__ float element_of(const BlockQ8_0& block, unsigned i) {
  return number_of_f16(block.d) * float(block.quants[i]);
}

__device__ float element_of(const BlockQ4_0& block, unsigned i) {
  return number_of_f16(block.d) * float((block.quants[i % 16] >> (i < 16 ? 0 : 4) & 15) - 8);
}

__device__ float element_of(const BlockQ5_0& block, unsigned i) {
  const int lower = block.quants[i % 16] >> (i < 16 ? 0 : 4) & 15;
  return number_of_f16(block.d) * float((lower | (block.upper[i / 8] >> (i % 8) & 1) << 4) - 16);
}

// Q4_K and Q5_K: upper is the fifth bit. Scales and mins of 6 bits lie as quant.cpp says.
__device__ __forceinline__ float element_of_k(std::uint16_t d, std::uint16_t dmin, const std::uint8_t* packed,
                                              const std::uint8_t* quants, int upper, unsigned i) {
  const unsigned sub = i / 32;
  const int scale = sub < 4 ? packed[sub] & 63 : (packed[sub + 4] & 15) | packed[sub - 4] >> 6 << 4;
  const int min = sub < 4 ? packed[sub + 4] & 63 : packed[sub + 4] >> 4 | packed[sub] >> 6 << 4;
  const int quant = (quants[sub / 2 * 32 + i % 32] >> (sub % 2 * 4) & 15) | upper << 4;
  return number_of_f16(d) * float(scale) * float(quant) - number_of_f16(dmin) * float(min);
}

__device__ float element_of(const BlockQ4_K& block, unsigned i) {
  return element_of_k(block.d, block.dmin, block.scales, block.quants, 0, i);
}

__device__ float element_of(const BlockQ5_K& block, unsigned i) {
  return element_of_k(block.d, block.dmin, block.scales, block.quants, block.upper[i % 32] >> (i / 32) & 1, i);
}

__device__ float element_of(const BlockQ6_K& block, unsigned i) {
  const unsigned half = i / 128, group = i % 128 / 32, j = i % 32;
  const int lower = block.lower[64 * half + 32 * (group % 2) + j] >> (group < 2 ? 0 : 4) & 15;
  const int upper = block.upper[32 * half + j] >> (2 * group) & 3;
  return number_of_f16(block.d) * float(block.scales[i / 16]) * float((lower | upper << 4) - 32);
}

template <class Block>
__device__ __forceinline__ float element_of_row(const WeightView& table, std::size_t row, unsigned col) {
  constexpr unsigned kElements = Block::kElements;
  const auto* blocks = static_cast<const Block*>(table.data) + row * (table.row_stride / kElements);
  return element_of(blocks[col / kElements], col % kElements);
}

// Of our own formats: the byte of an output and an input within a chunk of kInt8's.
__device__ __forceinline__ unsigned quant_index(unsigned out, unsigned input) {
  return (input / 4 * unsigned{kPanelOuts} + out) * 4 + input % 4;
}

__device__ float element_of_panels(const WeightView& table, std::size_t row, unsigned col) {
  const std::size_t panel_bytes = row_bytes(table.dtype, table.row_stride);
  const auto* const chunk = static_cast<const std::uint8_t*>(table.data) + row / kPanelOuts * panel_bytes +
                            col / kChunkInputs * block_bytes(table.dtype);
  const auto out = static_cast<unsigned>(row % kPanelOuts);
  const unsigned input = col % kChunkInputs;
  if (table.dtype == DType::kInt8) return table.scales[row] * float(chunk[quant_index(out, input)] - 128);
  constexpr unsigned kGroupBytes = kPanelOuts * kInt4Group / 2;
  const unsigned group = input / kInt4Group, index = quant_index(out, input % kInt4Group);
  const auto* const scales = reinterpret_cast<const std::uint16_t*>(chunk + 2 * kGroupBytes);
  const int quant = chunk[group * kGroupBytes + index % kGroupBytes] >> (index < kGroupBytes ? 0 : 4) & 15;
  return number_of_f16(scales[group * kPanelOuts + out]) * float(quant - 8);
}

__device__ float element(const WeightView& table, std::size_t row, unsigned col) {
  const std::size_t index = row * table.row_stride + col;
  switch (table.dtype) {
    case DType::kF32: return static_cast<const float*>(table.data)[index];
    case DType::kF16: return __half2float(static_cast<const __half*>(table.data)[index]);
    case DType::kBF16: return __bfloat162float(static_cast<const __nv_bfloat16*>(table.data)[index]);
    case DType::kQ8_0: return element_of_row<BlockQ8_0>(table, row, col);
    case DType::kQ4_0: return element_of_row<BlockQ4_0>(table, row, col);
    case DType::kQ5_0: return element_of_row<BlockQ5_0>(table, row, col);
    case DType::kQ4_K: return element_of_row<BlockQ4_K>(table, row, col);
    case DType::kQ5_K: return element_of_row<BlockQ5_K>(table, row, col);
    case DType::kQ6_K: return element_of_row<BlockQ6_K>(table, row, col);
    default: return element_of_panels(table, row, col);
  }
}

constexpr unsigned kThreads = 256;

// Blocks: (rows, columns / kThreads).
__global__ void __launch_bounds__(kThreads) embed_rows(EmbedArgs args) {
  const unsigned col = blockIdx.y * kThreads + threadIdx.x;
  if (col >= args.table.cols) return;
  const std::uint32_t token = args.tokens[blockIdx.x];
  const bool is_held = token >= args.first_row && token - args.first_row < args.table.rows;
  args.out.data[blockIdx.x * args.out.row_stride + col] =
      is_held ? element(args.table, token - args.first_row, col) : 0.0f;
}

}  // namespace

void embed(Stream stream, const EmbedArgs& args) {
  assert(args.out.cols == args.table.cols && args.table.cols > 0);
  if (args.out.rows == 0) return;
  const auto blocks = static_cast<unsigned>((args.table.cols + kThreads - 1) / kThreads);
  launch(stream, {static_cast<unsigned>(args.out.rows), blocks}, kThreads, 0, embed_rows, args);
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
