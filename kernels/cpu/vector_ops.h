#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/tensor.h"

namespace troupe::kernels {

// The inner loops of one instruction set, as plain functions over plain memory. A file that is compiled for an
// instruction set defines one such table and nothing else: no inline function or template that it might share with
// code for lesser machines (a test looks at its symbols).
//
// Every function takes unaligned pointers and any sizes.

// out(rows, vectors * width) (+)= in(rows, depth) * panel. A panel holds `vectors` vectors of weights for each of
// `depth` input features: (depth, vectors * width). Each output is one chain of fused multiply-adds in the order of
// depth, whatever `rows` is; a later tile over the next part of the depth continues it through `out`.
struct LinearTile {
  const float* in = nullptr;
  std::size_t in_stride = 0;
  std::size_t rows = 0;  // 1 to VectorOps::tile_rows
  const void* panel = nullptr;
  std::size_t vectors = 0;  // 1 to VectorOps::panel_vectors
  std::size_t depth = 0;
  float* out = nullptr;
  std::size_t out_stride = 0;
  bool continues = false;  // add to what is in out
};

// out(rows, vectors * 16) (+)= in * panel, in BF16 with sums in float32, where every input is the sum of TileOps::parts
// numbers in BF16: its rounding (2^-8 of it is lost at most), and where there are two, the rounding of what is left
// (2^-17). Inputs lie in blocks of 16 rows (fewer at the end), a block in (in_depth, parts, rows, 32 features); weights
// as PackedTiles says. A row's result does not depend on the others, and a later call over the next part of the depth
// continues it through `out`.
struct TileMultiply {
  const std::byte* in = nullptr;
  std::size_t rows = 0;
  std::size_t in_depth = 0;  // of the input, in tiles of 32 features
  const std::byte* panel = nullptr;
  std::size_t vectors = 0;  // 1 to 4
  std::size_t first = 0;    // tile of the depth at which the panel begins; 0 does not read `out`
  std::size_t depth = 0;
  float* out = nullptr;
  std::size_t out_stride = 0;
  // What the next call reads of weights, to be asked for while this one computes; none where there are 0 bytes.
  const std::byte* next = nullptr;
  std::size_t next_bytes = 0;
};

// Products of BF16 in matrix registers, which whoever calls these has asked the system for (detect_cpu_features), or in
// vectors.
struct TileOps {
  std::size_t parts;  // 1 or 2
  bool tiles_apart;   // how a panel lies (PackedTiles)
  // Up to 16 rows of inputs in the layout that multiply reads, zeros beyond cols.
  void (*split)(const float* in, std::size_t stride, std::size_t rows, std::size_t cols, std::byte* out);
  void (*multiply)(const TileMultiply& call);
};

// Attention of the query heads that share one KV head, of several rows of one sequence, over a stretch of positions.
// What it makes can be combined with what another stretch gives: Milakov & Gimelshein 2018, "Online normalizer
// calculation for softmax". Nothing in it depends on which other queries are in the call.
constexpr std::size_t kMaxAttendQueries = 32;

// Stretches begin at multiples of this, so that a row gets the same numbers in whatever way a context is cut.
constexpr std::size_t kAttendStretch = 512;  // positions

// For each query (rows * heads, those of a row together): the sum of exp(score - highest) * value over the positions
// seen so far, the sum of exp(score - highest), and the highest score. A query that has seen none has sum 0.
struct AttendState {
  float* values = nullptr;   // (queries, head_dim)
  float* sums = nullptr;     // (queries)
  float* highest = nullptr;  // (queries)
};

struct AttendCall {
  const float* queries = nullptr;  // (rows, heads * head_dim)
  std::size_t query_stride = 0;
  std::size_t rows = 0;
  std::size_t heads = 0;  // rows * heads: 1 to kMaxAttendQueries
  std::size_t head_dim = 0;
  DType dtype = DType::kF32;
  const void* keys = nullptr;  // as PagedKv
  const void* values = nullptr;
  const float* key_scales = nullptr;
  const float* value_scales = nullptr;
  std::size_t kv_head = 0;
  std::size_t num_kv_heads = 0;
  const std::uint32_t* block_table = nullptr;
  std::size_t block_size = 0;
  std::size_t begin = 0;  // positions of the call, within one stretch
  std::size_t end = 0;
  std::size_t first_end = 0;  // the first row sees positions below this, each further row one more
  std::size_t window = 0;     // a row sees its last so many positions; 0 = all
  float scale = 0;
};

struct VectorOps {
  std::size_t width;          // floats in a vector
  std::size_t panel_vectors;  // vectors of outputs in a panel
  std::size_t tile_rows;

  void (*linear_tile)(DType dtype, const LinearTile& tile);
  // Sets `state` to what the call's positions give.
  void (*attend)(const AttendCall& call, const AttendState& state);
  // total = total and further together.
  void (*combine)(const AttendState& total, const AttendState& further, std::size_t queries, std::size_t head_dim);
  void (*rms_norm)(const float* in, const float* weight, std::size_t size, float eps, float* out);
  // One head; cosines and sines: (pairs). `interleaved` as RopeLayout::kInterleaved.
  void (*rotate)(float* head, std::size_t pairs, const float* cosines, const float* sines, bool interleaved);
  // out = silu(gate) * up
  void (*silu_multiply)(const float* gate, const float* up, std::size_t size, float* out);
  void (*add)(const float* a, const float* b, std::size_t size, float* out);
  void (*scale)(const float* in, float factor, std::size_t size, float* out);
  void (*widen)(const void* in, DType dtype, std::size_t size, float* out);
  void (*narrow)(const float* in, DType dtype, std::size_t size, void* out);
};

extern const VectorOps kAvx2Ops;
extern const VectorOps kAvx512Ops;
extern const TileOps kAmxTileOps;
extern const TileOps kBf16TileOps;  // AVX-512 with its BF16

}  // namespace troupe::kernels
