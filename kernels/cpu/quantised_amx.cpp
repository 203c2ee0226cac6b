#include <immintrin.h>

#include "kernels/cpu/ahead.h"
#include "kernels/cpu/quantised_avx512.h"
#include "kernels/cpu/quantised_loops.h"

namespace troupe::kernels {
namespace {

// Full tiles of 16 rows go through AMX: a product of (16 rows, up to 64 inputs) and (those inputs, 16 outputs) takes 16
// cycles, however many inputs there are. What is left of a batch, and what follows the exact sums, is done as in
// Vnni512, to the same bits.
//
// Registers: 0 to 3 sums, 4 and 5 inputs, 6 and 7 weights.
constexpr std::size_t kRows = 16;
constexpr std::size_t kTileBytes = kRows * kInputChunk;  // of inputs; and of weights for 16 outputs

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

using Products = std::int32_t[kRows][kPanelOuts];

// Writes the panel's quants to the scratch memory, less their offset, 64 bytes to 4 inputs of 16 outputs.
template <class Chunk>
void expand(const QuantisedCall& call) {
  std::byte* to = call.scratch;
  const std::byte* panel = call.panels;
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

// One product, from nothing, through registers of its own: a macro, because the compiler's intrinsics take the numbers
// of registers by their text.
#define TROUPE_STORE_PRODUCTS(sums, inputs, weights, input_at, weight_at, to) \
  _tile_zero(sums);                                                           \
  _tile_loadd(inputs, input_at, kInputChunk);                                 \
  _tile_loadd(weights, weight_at, 64);                                        \
  _tile_dpbssd(sums, inputs, weights);                                        \
  _tile_stored(sums, to, 64)

// The products of two blocks, which are a chunk of inputs: for each one for each of its scales.
template <class Chunk>
void store_products(const std::int8_t* inputs, const std::byte* weights, Products* to) {
  TROUPE_STORE_PRODUCTS(0, 4, 6, inputs, weights, to[0]);
  if constexpr (Chunk::kSubs == 2) {
    TROUPE_STORE_PRODUCTS(1, 5, 7, inputs + 16, weights + 256, to[1]);
  }
  TROUPE_STORE_PRODUCTS(2, 4, 6, inputs + 32, weights + 512, to[Chunk::kSubs]);
  if constexpr (Chunk::kSubs == 2) {
    TROUPE_STORE_PRODUCTS(3, 5, 7, inputs + 48, weights + 768, to[3]);
  }
}

#undef TROUPE_STORE_PRODUCTS

// A tile of kRows rows; the scratch memory holds the panel as expand writes it. AMX makes the products of the next
// chunk of inputs before those of this one are scaled and summed: a sum that was stored a moment ago is not yet to be
// had.
template <class Chunk>
void multiply_tile_amx(const QuantisedCall& call, std::size_t first, Ahead ahead) {
  using V = Vnni512;
  TilePointers in = tile_at(call.in, first);
  alignas(64) Products products[2][2 * Chunk::kSubs];
  __m512 sums[kRows];
#pragma GCC unroll 16
  for (auto& sum : sums) sum = V::zero();

  const std::byte* panel = call.panels;
  const std::byte* weights = call.scratch;
  const std::byte* const end = weights + call.in.cols * kPanelOuts;
  std::size_t parity = 0;
  store_products<Chunk>(in.quants, weights, products[0]);
  for (; weights < end; panel += Chunk::kBytes) {
    const Chunk chunk(panel);
    for (std::size_t pair = 0; pair < Chunk::kBlocks; pair += 2, parity ^= 1) {
      ahead.step();
      weights += kTileBytes;
      in.quants += kTileBytes;
      if (weights < end) store_products<Chunk>(in.quants, weights, products[parity ^ 1]);
      const Products* of_block = products[parity];
#pragma GCC unroll 2
      for (std::size_t block = pair; block < pair + 2; ++block, of_block += Chunk::kSubs) {
#pragma GCC unroll 2
        for (std::size_t sub = 0; sub < Chunk::kSubs; ++sub) {
          const auto scale = chunk.scale(block, sub);
#pragma GCC unroll 16
          for (std::size_t r = 0; r < kRows; ++r) {
            const __m512i dot = _mm512_load_si512(of_block[sub][r]);
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
  }

  const auto bias = call.bias != nullptr ? V::load_some(call.bias, call.outs) : V::zero();
#pragma GCC unroll 16
  for (std::size_t r = 0; r < kRows; ++r) {
    float* out = call.out + (first - call.first_row + r) * call.out_stride;
    V::store_some(out, V::add(sums[r], bias), call.outs);
  }
}

// The panel behind this one is fetched meanwhile.
template <class Chunk>
void multiply_tiles(const QuantisedCall& call, std::size_t tiles) {
  configure(kInputBlock / Chunk::kSubs);
  for_each_panel(call, [&](const QuantisedCall& panel) {
    expand<Chunk>(panel);
    const std::byte* next = panel.panels + panel.panel_bytes;
    const std::size_t bytes = panel.panel_bytes / tiles;
    for (std::size_t tile = 0; tile < tiles; ++tile) {
      multiply_tile_amx<Chunk>(panel, panel.first_row + tile * kRows,
                               Ahead(next + tile * bytes, bytes, panel.in.cols / kInputChunk));
    }
  });
}

// Of kInt8, whose panels AMX takes as they are: sums of kTiles tiles of rows by kPanels panels. Where both are 2, four
// products come to four loads, which is what keeps AMX busy.
template <std::size_t kTiles, std::size_t kPanels>
void sum_int8(const QuantisedCall& call, std::size_t first, Ahead& ahead, Products* to) {
  const std::int8_t* inputs = tile_at(call.in, first).quants;
  const std::int8_t* more_inputs = inputs + kRows * call.in.cols;
  const std::byte* weights = call.panels;
  const std::byte* more_weights = weights + call.panel_bytes;
  const float* out = call.out + (first - call.first_row) * call.out_stride;
  const float* const out_end = out + kTiles * kRows * call.out_stride;
  _tile_zero(0);
  if constexpr (kTiles == 2) _tile_zero(1);
  if constexpr (kPanels == 2) _tile_zero(2);
  if constexpr (kTiles * kPanels == 4) _tile_zero(3);
  for (std::size_t chunk = 0; chunk < call.in.cols; chunk += kInputChunk) {
    ahead.step();
    // Where the results will be written.
    for (std::size_t i = 0; i < 4 && out < out_end; ++i, out += call.out_stride) {
      __builtin_prefetch(out, 1, 3);
      __builtin_prefetch(out + kPanels * kPanelOuts - 1, 1, 3);
    }
    _tile_loadd(4, inputs, kInputChunk);
    _tile_loadd(6, weights, 64);
    _tile_dpbsud(0, 4, 6);
    if constexpr (kTiles == 2) {
      _tile_loadd(5, more_inputs, kInputChunk);
      _tile_dpbsud(1, 5, 6);
    }
    if constexpr (kPanels == 2) {
      _tile_loadd(7, more_weights, 64);
      _tile_dpbsud(2, 4, 7);
    }
    if constexpr (kTiles * kPanels == 4) _tile_dpbsud(3, 5, 7);
    inputs += kTileBytes;
    more_inputs += kTileBytes;
    weights += kTileBytes;
    more_weights += kTileBytes;
  }
  _tile_stored(0, to[0], 64);
  if constexpr (kTiles == 2) _tile_stored(1, to[1], 64);
  if constexpr (kPanels == 2) _tile_stored(2, to[2], 64);
  if constexpr (kTiles * kPanels == 4) _tile_stored(3, to[3], 64);
}

template <std::size_t kTiles, std::size_t kPanels>
void multiply_int8_tiles(const QuantisedCall& call, std::size_t first, Ahead& ahead) {
  alignas(64) Products products[4];
  sum_int8<kTiles, kPanels>(call, first, ahead, products);
  for_each_panel(call, [&](const QuantisedCall& panel) {
    const std::size_t index = panel.panels == call.panels ? 0 : 2;
    for (std::size_t tile = 0; tile < kTiles; ++tile) {
      const TilePointers in = tile_at(call.in, first + tile * kRows);
      for (std::size_t r = 0; r < kRows; ++r) {
        const auto sum =
            Vnni512::add_ints(Vnni512::set_ints(in.starts + r), _mm512_load_si512(products[index + tile][r]));
        finish_int8<Vnni512>(panel, first + tile * kRows + r, sum, in.scales + r);
      }
    }
  });
}

// `kPanels` panels; those behind them are fetched meanwhile.
template <std::size_t kPanels>
void multiply_int8_panels(const QuantisedCall& call, std::size_t tiles) {
  const std::size_t passes = (tiles + 1) / 2;
  Ahead ahead(call.panels + kPanels * call.panel_bytes, kPanels * call.panel_bytes,
              passes * (call.in.cols / kInputChunk));
  std::size_t tile = 0;
  for (; tile + 2 <= tiles; tile += 2) {
    multiply_int8_tiles<2, kPanels>(call, call.first_row + tile * kRows, ahead);
  }
  if (tile < tiles) multiply_int8_tiles<1, kPanels>(call, call.first_row + tile * kRows, ahead);
}

void multiply_int8(const QuantisedCall& call, std::size_t tiles) {
  configure(kInputChunk);
  std::size_t out = 0;
  for (; out + kPanelOuts < call.outs; out += 2 * kPanelOuts) {
    multiply_int8_panels<2>(panels_of(call, out, 2 * kPanelOuts), tiles);
  }
  if (out < call.outs) multiply_int8_panels<1>(panels_of(call, out, kPanelOuts), tiles);
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
      default: multiply_int8(call, tiles);
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
                                           .tiles_together = 2,
                                           .panels_together = 2,
                                           .quantise_row = quantise_row<Vnni512>,
                                           .multiply = multiply_amx};

}  // namespace troupe::kernels
