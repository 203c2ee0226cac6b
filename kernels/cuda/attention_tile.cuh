#pragma once

#include <cstring>

#include "kernels/cuda/paged_attention.h"
#include "kernels/cuda/tensor_core.h"

// From pages to tiles in shared memory, as tensor cores take them: 16-bit numbers, rows 8 numbers longer than they need
// be, so that the eight rows of a small matrix lie in different banks.

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

constexpr unsigned kTilePositions = 64;
constexpr unsigned kChunk = 8;  // 16-bit numbers that are copied together
constexpr unsigned kPadding = 8;

template <class To, class From>
__device__ __forceinline__ To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// F16 pages are multiplied as F16, all others as BF16.
template <DType kPages>
__device__ __forceinline__ std::uint32_t round_pair(float x, float y) {
  if constexpr (kPages == DType::kF16) return bits_as<std::uint32_t>(__floats2half2_rn(x, y));
  return bits_as<std::uint32_t>(__floats2bfloat162_rn(x, y));
}

template <DType kPages>
__device__ __forceinline__ std::uint16_t round_one(float x) {
  if constexpr (kPages == DType::kF16) return __half_as_ushort(__float2half_rn(x));
  return __bfloat16_as_ushort(__float2bfloat16_rn(x));
}

template <DType kPages>
__device__ __forceinline__ void multiply_tiles(float (&d)[4], const std::uint32_t (&a)[4],
                                               const std::uint32_t (&b)[2]) {
  if constexpr (kPages == DType::kF16) {
    mma_m16n8k16_f16(d, a, b);
  } else {
    mma_m16n8k16_bf16(d, a, b);
  }
}

// Bytes first and first + 1 of a word of E4M3 numbers, as BF16, which has room for them: shifted to where BF16 has
// exponent and mantissa, they are 2^-120 of the number.
template <unsigned kFirst>
__device__ __forceinline__ std::uint32_t widen_e4m3(std::uint32_t word) {
  const std::uint32_t bits = __byte_perm(word, 0, kFirst == 0 ? 0x4140 : 0x4342);
  std::uint32_t magnitude = (bits & 0x007f007f) << 4;
  const std::uint32_t is_nan = (magnitude + 0x00100010) & 0x08000800;
  magnitude |= (is_nan << 4) - is_nan;
  const std::uint32_t powers = 0x7b807b80;  // 2^120, twice
  return bits_as<std::uint32_t>(
      __hmul2(bits_as<__nv_bfloat162>((bits & 0x00800080) << 8 | magnitude), bits_as<__nv_bfloat162>(powers)));
}

// Eight neighbours of a page to shared memory.
template <DType kPages>
__device__ __forceinline__ void copy_chunk(std::uint16_t* to, const void* pages, std::size_t first, bool is_there) {
  if constexpr (kPages == DType::kF16 || kPages == DType::kBF16) {
    cp_async_16(to, static_cast<const std::uint16_t*>(pages) + first, is_there);
  } else if constexpr (kPages == DType::kE4M3) {
    uint4 chunk = make_uint4(0, 0, 0, 0);
    if (is_there) {
      const uint2 bytes = *reinterpret_cast<const uint2*>(static_cast<const std::uint8_t*>(pages) + first);
      chunk =
          make_uint4(widen_e4m3<0>(bytes.x), widen_e4m3<2>(bytes.x), widen_e4m3<0>(bytes.y), widen_e4m3<2>(bytes.y));
    }
    *reinterpret_cast<uint4*>(to) = chunk;
  } else {
    uint4 chunk = make_uint4(0, 0, 0, 0);
    if (is_there) {
      float x[kChunk];
      if constexpr (kPages == DType::kF32) {
        const auto* from = reinterpret_cast<const float4*>(static_cast<const float*>(pages) + first);
        const float4 low = from[0], high = from[1];
        x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
        x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
      } else {
        static_assert(kPages == DType::kI8);
        const uint2 bytes = *reinterpret_cast<const uint2*>(static_cast<const std::int8_t*>(pages) + first);
#pragma unroll
        for (unsigned i = 0; i < kChunk; ++i) {
          x[i] = float(static_cast<std::int8_t>((i < 4 ? bytes.x : bytes.y) >> 8 * (i % 4)));
        }
      }
      chunk = make_uint4(round_pair<kPages>(x[0], x[1]), round_pair<kPages>(x[2], x[3]), round_pair<kPages>(x[4], x[5]),
                         round_pair<kPages>(x[6], x[7]));
    }
    *reinterpret_cast<uint4*>(to) = chunk;
  }
}

template <DType kPages>
__device__ __forceinline__ std::uint16_t load_one(const void* pages, std::size_t index) {
  if constexpr (kPages == DType::kF16 || kPages == DType::kBF16) {
    return static_cast<const std::uint16_t*>(pages)[index];
  } else if constexpr (kPages == DType::kF32) {
    return round_one<kPages>(static_cast<const float*>(pages)[index]);
  } else if constexpr (kPages == DType::kE4M3) {
    return static_cast<std::uint16_t>(widen_e4m3<0>(static_cast<const std::uint8_t*>(pages)[index]));
  } else {
    return round_one<kPages>(float(static_cast<const std::int8_t*>(pages)[index]));
  }
}

// Where the positions of a tile lie, and their scales.
struct TilePlaces {
  std::uint32_t place[kTilePositions];   // PagedKv::scale_index
  std::uint32_t offset[kTilePositions];  // within the block
  float key_scale[kTilePositions];       // has_page_scales
  float value_scale[kTilePositions];
};

// By the block's first threads. Positions from `end` on are not there.
template <DType kPages>
__device__ __forceinline__ void find_places(TilePlaces& places, const PagedKv& kv, const std::uint32_t* block_table,
                                            unsigned kv_head, unsigned first_position, unsigned end) {
  const unsigned i = threadIdx.x;
  if (i >= kTilePositions) return;
  const unsigned position = first_position + i;
  std::uint32_t place = 0, offset = 0;
  float key_scale = 0, value_scale = 0;
  if (position < end) {
    const auto block_size = static_cast<unsigned>(kv.block_size);
    offset = position % block_size;
    place =
        (block_table[position / block_size] * static_cast<unsigned>(kv.num_kv_heads) + kv_head) * block_size + offset;
    if constexpr (has_page_scales(kPages)) {
      key_scale = kv.key_scales[place];
      value_scale = kv.value_scales[place];
    }
  }
  places.place[i] = place;
  places.offset[i] = offset;
  if constexpr (has_page_scales(kPages)) {
    places.key_scale[i] = key_scale;
    places.value_scale[i] = value_scale;
  }
}

// keys: (kDim, kTilePositions + kPadding). is_aligned: tokens of a block, and the elements of a value, go in whole
// chunks. What is not there is zero, but behind `end` in the same chunk keys may be anything.
template <DType kPages, unsigned kDim, unsigned kThreads>
__device__ __forceinline__ void load_keys(std::uint16_t* keys, const TilePlaces& places, const PagedKv& kv,
                                          unsigned first_position, unsigned end, bool is_aligned) {
  constexpr unsigned kRow = kTilePositions + kPadding;
  constexpr unsigned kChunks = kTilePositions / kChunk;
  const auto head_dim = static_cast<unsigned>(kv.head_dim);
  const unsigned first = threadIdx.x % kChunks * kChunk;  // of this thread's positions
  const auto first_of = [&](unsigned i) {                 // element of the position's key
    return std::size_t{places.place[i] - places.offset[i]} * head_dim + places.offset[i];
  };
  const std::size_t base = first_of(first);
#pragma unroll
  for (unsigned i = 0; i < kDim * kChunks / kThreads; ++i) {
    const unsigned dim = threadIdx.x / kChunks + i * (kThreads / kChunks);
    std::uint16_t* const to = keys + dim * kRow + first;
    if (is_aligned) {
      copy_chunk<kPages>(to, kv.keys, base + dim * kv.block_size, dim < head_dim && first_position + first < end);
    } else {
#pragma unroll 1
      for (unsigned j = 0; j < kChunk; ++j) {
        const bool is_there = dim < head_dim && first_position + first + j < end;
        to[j] = is_there ? load_one<kPages>(kv.keys, first_of(first + j) + dim * kv.block_size) : std::uint16_t{0};
      }
    }
  }
}

// values: (kTilePositions, kDim + kPadding).
template <DType kPages, unsigned kDim, unsigned kThreads>
__device__ __forceinline__ void load_values(std::uint16_t* values, const TilePlaces& places, const PagedKv& kv,
                                            unsigned first_position, unsigned end, bool is_aligned) {
  constexpr unsigned kRow = kDim + kPadding;
  constexpr unsigned kChunks = kDim / kChunk;
  const auto head_dim = static_cast<unsigned>(kv.head_dim);
  const unsigned dim = threadIdx.x % kChunks * kChunk;
#pragma unroll
  for (unsigned i = 0; i < kTilePositions * kChunks / kThreads; ++i) {
    const unsigned position = threadIdx.x / kChunks + i * (kThreads / kChunks);
    std::uint16_t* const to = values + position * kRow + dim;
    const std::size_t first = std::size_t{places.place[position]} * head_dim + dim;
    const bool is_there = first_position + position < end;
    if (is_aligned) {
      copy_chunk<kPages>(to, kv.values, first, is_there && dim < head_dim);
    } else {
#pragma unroll 1
      for (unsigned j = 0; j < kChunk; ++j) {
        to[j] = is_there && dim + j < head_dim ? load_one<kPages>(kv.values, first + j) : std::uint16_t{0};
      }
    }
  }
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
