#pragma once

// How a lane reads its part of each weight format (kernels/cuda/packed_weight.h) and multiplies it with rows of
// prepared inputs (kernels/cuda/prepared_input.h).

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include "kernels/cuda/packed_weight.h"
#include "kernels/cuda/simt.h"
#include "kernels/cuda/tensor_core.h"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

template <class T>
__device__ __forceinline__ T load(const std::byte* from) {
  return __ldg(reinterpret_cast<const T*>(from));
}

// The lower and the upper f16 of a word.
__device__ __forceinline__ float lower_half(std::uint32_t word) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(word & 0xffff)));
}
__device__ __forceinline__ float upper_half(std::uint32_t word) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16)));
}
__device__ __forceinline__ int byte_of(std::uint32_t word, int index) { return word >> (8 * index) & 255; }

// What a lane holds of a unit, and the fragments of its two steps. load() reads from the unit's first byte.
template <int kBits>
struct Quants;

template <>
struct Quants<8> {
  uint4 steps[2];
  __device__ __forceinline__ void load_unit(const std::byte* unit, unsigned lane) {
    steps[0] = load<uint4>(unit + lane * 16);
    steps[1] = load<uint4>(unit + 512 + lane * 16);
  }
  __device__ __forceinline__ void fragment(int step, std::uint32_t (&a)[4]) const {
    const uint4 words = step == 0 ? steps[0] : steps[1];
    a[0] = words.x;
    a[1] = words.y;
    a[2] = words.z;
    a[3] = words.w;
  }
};

template <>
struct Quants<4> {
  static constexpr std::size_t kBytes = 512;
  uint4 both;
  __device__ __forceinline__ void load_unit(const std::byte* unit, unsigned lane) {
    both = load<uint4>(unit + lane * 16);
  }
  __device__ __forceinline__ void fragment(int step, std::uint32_t (&a)[4]) const {
    constexpr std::uint32_t kLower = 0x0f0f0f0f;
    a[0] = both.x >> (4 * step) & kLower;
    a[1] = both.y >> (4 * step) & kLower;
    a[2] = both.z >> (4 * step) & kLower;
    a[3] = both.w >> (4 * step) & kLower;
  }
};

template <>
struct Quants<5> {
  static constexpr std::size_t kBytes = 640;
  Quants<4> lower;
  std::uint32_t upper;
  __device__ __forceinline__ void load_unit(const std::byte* unit, unsigned lane) {
    lower.load_unit(unit, lane);
    upper = load<std::uint32_t>(unit + 512 + lane * 4);
  }
  __device__ __forceinline__ void fragment(int step, std::uint32_t (&a)[4]) const {
    lower.fragment(step, a);
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] |= (upper >> (4 * step + i) & 0x01010101) << 4;
  }
};

template <>
struct Quants<6> {
  static constexpr std::size_t kBytes = 768;
  Quants<4> lower;
  uint2 upper;
  __device__ __forceinline__ void load_unit(const std::byte* unit, unsigned lane) {
    lower.load_unit(unit, lane);
    upper = load<uint2>(unit + 512 + lane * 8);
  }
  __device__ __forceinline__ void fragment(int step, std::uint32_t (&a)[4]) const {
    lower.fragment(step, a);
    const std::uint32_t bits = step == 0 ? upper.x : upper.y;
#pragma unroll
    for (int i = 0; i < 4; ++i) a[i] |= (bits >> (2 * i) & 0x03030303) << 4;
  }
};

constexpr int bits_of(DType dtype) {
  switch (dtype) {
    case DType::kQ4_0:
    case DType::kInt4:
    case DType::kQ4_K: return 4;
    case DType::kQ5_0:
    case DType::kQ5_K: return 5;
    case DType::kQ6_K: return 6;
    default: return 8;  // float types as well: two words of fragments as they are
  }
}

// Units that a warp loads before it multiplies, so that enough reads are on their way. Segments are whole groups.
constexpr unsigned group_units(DType dtype) { return dtype == DType::kF32 ? 2 : 4; }

// What the sums of a format are.
template <DType kType>
using Sum = std::conditional_t<kType == DType::kInt8, std::int32_t, float>;

// A whole number of less than 22 bits as the lower bits of this float, which a subtraction makes a float: conversions
// run at a fraction of the speed of sums.
constexpr std::int32_t kFloatBits = 0x4b400000;
constexpr float kFloatOffset = 12582912.0f;
__device__ __forceinline__ float exact_float(std::int32_t biased) { return __int_as_float(biased) - kFloatOffset; }

// The scales of two blocks of 32 inputs, of outputs g and g + 8.
struct BlockScales {
  uint2 words;
  __device__ __forceinline__ void load_unit(const std::byte* scales, unsigned lane) {
    words = load<uint2>(scales + lane / 4 * 8);
  }
  __device__ __forceinline__ float scale(int block, int out) const {
    const std::uint32_t word = out == 0 ? words.x : words.y;
    return block == 0 ? lower_half(word) : upper_half(word);
  }
};

// Scales and mins of eight blocks.
struct ChunkScales {
  uint4 outs[2];
  uint2 d;
  __device__ __forceinline__ void load_chunk(const std::byte* scales, unsigned lane) {
    outs[0] = load<uint4>(scales + lane / 4 * 16);
    outs[1] = load<uint4>(scales + 128 + lane / 4 * 16);
    d = load<uint2>(scales + 256 + lane / 4 * 8);
  }
  __device__ __forceinline__ float scale(int block, int out) const {
    const std::uint32_t word = block < 4 ? outs[out].x : outs[out].y;
    return lower_half(out == 0 ? d.x : d.y) * static_cast<float>(byte_of(word, block % 4));
  }
  __device__ __forceinline__ float min(int block, int out) const {
    const std::uint32_t word = block < 4 ? outs[out].z : outs[out].w;
    return upper_half(out == 0 ? d.x : d.y) * static_cast<float>(byte_of(word, block % 4));
  }
};

// Scales of sixteen halves of blocks.
struct HalfBlockScales {
  uint4 outs[2];
  std::uint32_t d;
  __device__ __forceinline__ void load_chunk(const std::byte* scales, unsigned lane) {
    outs[0] = load<uint4>(scales + lane / 4 * 16);
    outs[1] = load<uint4>(scales + 128 + lane / 4 * 16);
    d = load<std::uint32_t>(scales + 256 + lane / 4 * 4);
  }
  __device__ __forceinline__ float scale(int half, int out) const {
    const uint4& words = outs[out];
    const std::uint32_t word = half < 4 ? words.x : half < 8 ? words.y : half < 12 ? words.z : words.w;
    const auto factor = static_cast<std::int8_t>(byte_of(word, half % 4));
    return (out == 0 ? lower_half(d) : upper_half(d)) * static_cast<float>(factor);
  }
};

// One group of a panel, as a lane holds it.
template <DType kType>
struct Group {
  static constexpr unsigned kUnits = group_units(kType);
  static constexpr bool kIsK = gpu_chunk_units(kType) == 4;
  static constexpr bool kHalves = kType == DType::kQ6_K;
  static constexpr bool kMins = kType == DType::kQ4_K || kType == DType::kQ5_K;
  static constexpr bool kIsFloat = !is_quantised(kType);
  static constexpr int kParts = kType == DType::kF32 ? 2 : 1;
  static constexpr unsigned kChunkBytes = gpu_chunk_bytes(kType);
  // Subtracted from quants as they are multiplied; those of eight bits are signed.
  static constexpr std::int32_t kOffset = kIsFloat || bits_of(kType) == 8 ? 0 : quant_offset(kType);
  using UnitQuants = Quants<bits_of(kType)>;
  using Scales = std::conditional_t<kHalves, HalfBlockScales, std::conditional_t<kMins, ChunkScales, BlockScales>>;

  UnitQuants quants[kUnits * kParts];
  Scales scales[kIsK ? 1 : kUnits];

  // Units [first, first + kUnits) of those that there are.
  __device__ __forceinline__ void load_group(const std::byte* panel, unsigned first, unsigned units, unsigned lane) {
    if constexpr (kIsK) {
      const std::byte* chunk = panel + std::size_t{first / 4} * kChunkBytes;
#pragma unroll
      for (unsigned unit = 0; unit < kUnits; ++unit) {
        quants[unit].load_unit(chunk + unit * UnitQuants::kBytes, lane);
      }
      scales[0].load_chunk(chunk + 4 * UnitQuants::kBytes, lane);
    } else {
#pragma unroll
      for (unsigned unit = 0; unit < kUnits; ++unit) {
        if (first + unit >= units) break;
        const std::byte* from = panel + std::size_t{first + unit} * kChunkBytes;
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
          quants[unit * kParts + part].load_unit(from + part * 1024, lane);
        }
        if constexpr (!kIsFloat && kType != DType::kInt8) {
          scales[unit].load_unit(from + kChunkBytes - 64, lane);
        }
      }
    }
  }
};

// f16 fragments as the sum of two bf16 fragments, without loss: upper takes 8 bits of each mantissa, lower the rest.
__device__ __forceinline__ void split_halves(const std::uint32_t (&a)[4], std::uint32_t (&upper)[4],
                                             std::uint32_t (&lower)[4]) {
  constexpr std::uint32_t kUpper = 0xffff0000;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float first = lower_half(a[i]), second = upper_half(a[i]);
    const std::uint32_t first_bits = __float_as_uint(first), second_bits = __float_as_uint(second);
    const float first_rest = first - __uint_as_float(first_bits & kUpper);
    const float second_rest = second - __uint_as_float(second_bits & kUpper);
    upper[i] = first_bits >> 16 | (second_bits & kUpper);
    lower[i] = __float_as_uint(first_rest) >> 16 | (__float_as_uint(second_rest) & kUpper);
  }
}

// A step of a quantised format is a block of 32 inputs.
template <DType kType, class Rows>
__device__ __forceinline__ void multiply_block(const Group<kType>& group, const Rows& rows, unsigned first,
                                               unsigned unit, int step, int tile, const std::uint32_t (&a)[4],
                                               const std::uint32_t (&b)[2], float (&sum)[4]) {
  constexpr std::int32_t kOffset = Group<kType>::kOffset;
  const unsigned block = (first + unit) * 2 + step;
  float scales[2];
  std::int32_t starts[2][2];  // of the halves
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    scales[i] = rows.scale(block, tile, i);
    if constexpr (kOffset != 0 || Group<kType>::kMins) {
      const std::uint32_t halves = rows.half_sums(block, tile, i);
      starts[i][0] = static_cast<std::int16_t>(halves & 0xffff);
      starts[i][1] = static_cast<std::int16_t>(halves >> 16);
    } else {
      starts[i][0] = starts[i][1] = 0;
    }
  }
  if constexpr (Group<kType>::kHalves) {
    const int half = static_cast<int>(unit) * 4 + step * 2;
#pragma unroll
    for (int side = 0; side < 2; ++side) {
      const std::int32_t start[2] = {kFloatBits - kOffset * starts[0][side], kFloatBits - kOffset * starts[1][side]};
      std::int32_t dots[4] = {start[0], start[1], start[0], start[1]};
      const std::uint32_t side_a[4] = {side == 0 ? a[0] : 0, side == 0 ? a[1] : 0, side == 0 ? 0 : a[2],
                                       side == 0 ? 0 : a[3]};
      mma_m16n8k32_s8(dots, side_a, b);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sum[i] = fmaf(exact_float(dots[i]), group.scales[0].scale(half + side, i / 2) * scales[i % 2], sum[i]);
      }
    }
  } else {
    const std::int32_t start[2] = {kFloatBits - kOffset * (starts[0][0] + starts[0][1]),
                                   kFloatBits - kOffset * (starts[1][0] + starts[1][1])};
    std::int32_t dots[4] = {start[0], start[1], start[0], start[1]};
    mma_m16n8k32_s8(dots, a, b);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (Group<kType>::kMins) {
        const int index = static_cast<int>(unit) * 2 + step;
        sum[i] = fmaf(exact_float(dots[i]), group.scales[0].scale(index, i / 2) * scales[i % 2], sum[i]);
        const auto total = static_cast<float>(starts[i % 2][0] + starts[i % 2][1]);
        sum[i] = fmaf(group.scales[0].min(index, i / 2), -(scales[i % 2] * total), sum[i]);
      } else {
        sum[i] = fmaf(exact_float(dots[i]), group.scales[unit].scale(step, i / 2) * scales[i % 2], sum[i]);
      }
    }
  }
}

// sums of tiles [0, tiles) += a group times the same units of the rows. A lane holds, of each tile of 8 rows and 16
// outputs, (output g, row 2 t), (g, 2 t + 1), (g + 8, 2 t) and (g + 8, 2 t + 1), where g = lane / 4, t = lane % 4.
//
// Rows: words(unit, tile, part): this lane's 16 bytes of a unit of row g; scale(block, tile, i), half_sums(block, tile,
// i): of row 2 t + i.
template <DType kType, int kTiles, class Rows>
__device__ __forceinline__ void multiply_group(const Group<kType>& group, const Rows& rows, unsigned first,
                                               unsigned units, int tiles, Sum<kType> (&sums)[kTiles][4]) {
#pragma unroll
  for (unsigned unit = 0; unit < Group<kType>::kUnits; ++unit) {
    if (first + unit >= units) break;
    constexpr int kParts = Group<kType>::kParts;
    uint4 words[kTiles][kParts];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      if (tile >= tiles) break;
#pragma unroll
      for (int part = 0; part < kParts; ++part) words[tile][part] = rows.words(first + unit, tile, part);
    }
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      std::uint32_t a[4];
      group.quants[unit * kParts].fragment(step, a);
      [[maybe_unused]] std::uint32_t rest[4], upper[4];
      if constexpr (kType == DType::kF16) split_halves(a, upper, rest);
      if constexpr (kType == DType::kF32) group.quants[unit * kParts + 1].fragment(step, rest);
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        if (tile >= tiles) break;
        const uint4& both = words[tile][0];
        const std::uint32_t b[2] = {step == 0 ? both.x : both.z, step == 0 ? both.y : both.w};
        auto& sum = sums[tile];
        if constexpr (kType == DType::kInt8) {
          mma_m16n8k32_s8(sum, a, b);
        } else if constexpr (kType == DType::kBF16) {
          mma_m16n8k16_bf16(sum, a, b);
        } else if constexpr (kType == DType::kF16) {
          mma_m16n8k16_bf16(sum, rest, b);
          mma_m16n8k16_bf16(sum, upper, b);
        } else if constexpr (kType == DType::kF32) {
          const uint4& lower = words[tile][1];
          const std::uint32_t b_rest[2] = {step == 0 ? lower.x : lower.z, step == 0 ? lower.y : lower.w};
          mma_m16n8k16_bf16(sum, rest, b);
          mma_m16n8k16_bf16(sum, a, b_rest);
          mma_m16n8k16_bf16(sum, a, b);
        } else {
          multiply_block<kType>(group, rows, first, unit, step, tile, a, b, sum);
        }
      }
    }
  }
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
