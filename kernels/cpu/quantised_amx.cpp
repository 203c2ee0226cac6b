#include <immintrin.h>

#include "kernels/cpu/quantised_avx512.h"
#include "kernels/cpu/quantised_loops.h"

namespace troupe::kernels {
namespace {

// Full tiles of 16 rows go through AMX: a product of (16 rows, 64 inputs) and (64 inputs, 16 outputs) takes 16 cycles.
// What is left of a batch, and what follows the exact sums, is done as in Vnni512, to the same bits.
//
// Registers: 0 to 3 sums, 4 and 5 inputs, 6 and 7 weights.
constexpr std::size_t kRows = 16;

struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {};
  std::uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

// For products over `inputs` inputs.
void configure(std::size_t inputs) {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    const bool is_input = i == 4 || i == 5;
    const bool is_weight = i >= 6;
    config.row_bytes[i] = static_cast<std::uint16_t>(is_input ? inputs : 64);
    config.rows[i] = static_cast<std::uint8_t>(is_weight ? inputs / 4 : kRows);
  }
  // GCC 12's intrinsics do not say that they read memory: without this, what was written (the configuration, the
  // scratch memory) may still be on its way.
  asm volatile("" ::: "memory");
  _tile_loadconfig(&config);
}

// Writes the panel's quants to the scratch memory, less their offset, 64 bytes to 4 inputs of 16 outputs.
template <class Chunk>
void expand(const QuantisedCall& call) {
  std::byte* to = call.scratch;
  const std::byte* panel = call.panel;
  const std::byte* end = to + call.in.cols * kPanelOuts;
  for (; to < end; panel += Chunk::kBytes) {
    prefetch<Chunk::kBytes>(panel);
    const Chunk chunk(panel);
    for (std::size_t block = 0; block < Chunk::kBlocks; ++block, to += 512) {
      __m512i quants[8];
      chunk.quants(block, quants);
#pragma GCC unroll 8
      for (std::size_t i = 0; i < 8; ++i) {
        _mm512_store_si512(to + 64 * i,
                           _mm512_sub_epi8(quants[i], _mm512_set1_epi8(static_cast<char>(Chunk::kOffset))));
      }
    }
  }
}

using Products = std::int32_t[kRows][kPanelOuts];

// One product, from nothing, through registers of its own: a macro, because the compiler's intrinsics take the numbers
// of registers by their text.
#define TROUPE_STORE_PRODUCTS(sums, inputs, weights, input_at, weight_at, to) \
  _tile_zero(sums);                                                           \
  _tile_loadd(inputs, input_at, kInputChunk);                                 \
  _tile_loadd(weights, weight_at, 64);                                        \
  _tile_dpbssd(sums, inputs, weights);                                        \
  _tile_stored(sums, to, 64)

// The products of a block, one for each of its scales; kParity alternates from block to block.
template <class Chunk, int kParity>
void store_block(const std::int8_t* inputs, const std::byte* weights, Products (&to)[2]) {
  if constexpr (kParity == 0) {
    TROUPE_STORE_PRODUCTS(0, 4, 6, inputs, weights, to[0]);
    if constexpr (Chunk::kSubs == 2) {
      TROUPE_STORE_PRODUCTS(2, 5, 7, inputs + 16, weights + 256, to[1]);
    }
  } else {
    TROUPE_STORE_PRODUCTS(1, 5, 7, inputs, weights, to[0]);
    if constexpr (Chunk::kSubs == 2) {
      TROUPE_STORE_PRODUCTS(3, 4, 6, inputs + 16, weights + 256, to[1]);
    }
  }
}

#undef TROUPE_STORE_PRODUCTS

// A tile of kRows rows; the scratch memory holds the panel as expand writes it. While the products of one block are
// scaled and summed, AMX makes those of the next.
template <class Chunk>
void multiply_tile_amx(const QuantisedCall& call, std::size_t first) {
  using V = Vnni512;
  TilePointers in = tile_at(call.in, first);
  alignas(64) Products products[2][2];
  __m512 sums[kRows];
#pragma GCC unroll 16
  for (auto& sum : sums) sum = V::zero();

  const std::byte* panel = call.panel;
  const std::byte* weights = call.scratch;
  const std::byte* const end = weights + call.in.cols * kPanelOuts;
  store_block<Chunk, 0>(in.quants, weights, products[0]);
  for (; weights < end; panel += Chunk::kBytes) {
    const Chunk chunk(panel);
#pragma GCC unroll 2
    for (std::size_t block = 0; block < Chunk::kBlocks; ++block) {
      weights += 512;
      if (block % 2 == 0) {
        store_block<Chunk, 1>(in.quants + kInputBlock, weights, products[1]);
      } else {
        in.quants += kRows * kInputChunk;
        if (weights < end) store_block<Chunk, 0>(in.quants, weights, products[0]);
      }
#pragma GCC unroll 2
      for (std::size_t sub = 0; sub < Chunk::kSubs; ++sub) {
        const auto scale = chunk.scale(block, sub);
#pragma GCC unroll 16
        for (std::size_t r = 0; r < kRows; ++r) {
          const __m512i dot = _mm512_load_si512(products[block % 2][sub][r]);
          sums[r] = V::fma(V::to_floats(dot), V::mul(scale, V::set(in.scales + r)), sums[r]);
        }
      }
      if constexpr (Chunk::kMins) {
        const auto min = chunk.min(block);
#pragma GCC unroll 16
        for (std::size_t r = 0; r < kRows; ++r) sums[r] = V::fma(min, V::set(in.min_sums + r), sums[r]);
      }
      in.scales += kRows;
      in.min_sums += kRows;
    }
  }

  const auto bias = call.bias != nullptr ? V::load_some(call.bias, call.outs) : V::zero();
#pragma GCC unroll 16
  for (std::size_t r = 0; r < kRows; ++r) {
    float* out = call.out + (first - call.first_row + r) * call.out_stride;
    V::store_some(out, V::add(sums[r], bias), call.outs);
  }
}

template <class Chunk>
void multiply_tiles(const QuantisedCall& call, std::size_t tiles) {
  expand<Chunk>(call);
  configure(kInputBlock / Chunk::kSubs);
  for (std::size_t tile = 0; tile < tiles; ++tile) multiply_tile_amx<Chunk>(call, call.first_row + tile * kRows);
}

// kInt8 takes the panel as it is. Four registers of sums take turns, so that a product need not wait for the one
// before.
void multiply_int8_tiles(const QuantisedCall& call, std::size_t tiles) {
  configure(kInputChunk);
  alignas(64) Products products[4];
  for (std::size_t tile = 0; tile < tiles; ++tile) {
    const std::size_t first = call.first_row + tile * kRows;
    const TilePointers in = tile_at(call.in, first);
    const std::int8_t* inputs = in.quants;
    const std::byte* weights = call.panel;
    constexpr std::size_t kStep = kRows * kInputChunk;  // of both
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    std::size_t chunks = call.in.cols / kInputChunk;
    for (; chunks >= 4; chunks -= 4) {
      prefetch<4 * kStep>(weights);
      _tile_loadd(4, inputs, kInputChunk);
      _tile_loadd(6, weights, 64);
      _tile_dpbsud(0, 4, 6);
      _tile_loadd(5, inputs + kStep, kInputChunk);
      _tile_loadd(7, weights + kStep, 64);
      _tile_dpbsud(1, 5, 7);
      _tile_loadd(4, inputs + 2 * kStep, kInputChunk);
      _tile_loadd(6, weights + 2 * kStep, 64);
      _tile_dpbsud(2, 4, 6);
      _tile_loadd(5, inputs + 3 * kStep, kInputChunk);
      _tile_loadd(7, weights + 3 * kStep, 64);
      _tile_dpbsud(3, 5, 7);
      inputs += 4 * kStep;
      weights += 4 * kStep;
    }
    for (; chunks > 0; --chunks, inputs += kStep, weights += kStep) {
      _tile_loadd(4, inputs, kInputChunk);
      _tile_loadd(6, weights, 64);
      _tile_dpbsud(0, 4, 6);
    }
    _tile_stored(0, products[0], 64);
    _tile_stored(1, products[1], 64);
    _tile_stored(2, products[2], 64);
    _tile_stored(3, products[3], 64);
    for (std::size_t r = 0; r < kRows; ++r) {
      auto sum = Vnni512::set_ints(in.starts + r);
      for (const auto& some : products) sum = Vnni512::add_ints(sum, _mm512_load_si512(some[r]));
      finish_int8<Vnni512>(call, first + r, sum, in.scales + r);
    }
  }
}

void multiply_amx(const QuantisedCall& call) {
  const std::size_t tiles = call.rows / kRows;
  if (tiles > 0) {
    switch (call.in.dtype) {
      case DType::kQ8_0: multiply_tiles<ChunkQ8_0<Vnni512>>(call, tiles); break;
      case DType::kQ4_0:
      case DType::kInt4: multiply_tiles<ChunkQ4_0<Vnni512>>(call, tiles); break;
      case DType::kQ5_0: multiply_tiles<ChunkQ5_0<Vnni512>>(call, tiles); break;
      case DType::kQ4_K: multiply_tiles<ChunkQ4_K<Vnni512>>(call, tiles); break;
      case DType::kQ5_K: multiply_tiles<ChunkQ5_K<Vnni512>>(call, tiles); break;
      case DType::kQ6_K: multiply_tiles<ChunkQ6_K<Vnni512>>(call, tiles); break;
      default: multiply_int8_tiles(call, tiles);
    }
    _tile_release();
  }
  if (tiles * kRows == call.rows) return;
  QuantisedCall rest = call;
  rest.first_row += tiles * kRows;
  rest.rows -= tiles * kRows;
  rest.out += tiles * kRows * call.out_stride;
  kAvx512QuantisedOps.multiply(rest);
}

}  // namespace

constexpr QuantisedOps kAmxQuantisedOps = {.tile_rows = kRows,
                                           .rows_together = ~std::size_t{0} / kRows * kRows,
                                           .quantise_row = quantise_row<Vnni512>,
                                           .multiply = multiply_amx};

}  // namespace troupe::kernels
