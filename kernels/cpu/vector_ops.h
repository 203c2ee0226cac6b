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

// out(rows, outs) (+)= in(rows, depth) * panel. A panel holds `vectors` vectors of weights for each of `depth` input
// features: (depth, vectors * width), zero beyond `outs`. Each output is one chain of fused multiply-adds in the order
// of depth, whatever `rows` is; a later tile over the next part of the depth continues it through `out`.
struct LinearTile {
  const float* in = nullptr;
  std::size_t in_stride = 0;
  std::size_t rows = 0;  // 1 to VectorOps::tile_rows
  const void* panel = nullptr;
  std::size_t vectors = 0;  // 1 to VectorOps::panel_vectors
  std::size_t depth = 0;
  float* out = nullptr;
  std::size_t out_stride = 0;
  std::size_t outs = 0;         // above (vectors - 1) * width
  bool continues = false;       // add to what is in out
  const float* bias = nullptr;  // (outs), added last
};

constexpr std::size_t kMaxQueriesPerCall = 16;

// Attention of several query heads that share one KV head, over positions [begin, end) of one sequence.
struct AttendCall {
  const float* queries = nullptr;  // (heads, head_dim)
  std::size_t heads = 0;           // 1 to kMaxQueriesPerCall
  std::size_t head_dim = 0;
  DType dtype = DType::kF32;
  const void* keys = nullptr;  // at this KV head of slot 0
  const void* values = nullptr;
  std::size_t slot_stride = 0;  // elements
  const std::uint32_t* block_table = nullptr;
  std::size_t block_size = 0;
  std::size_t begin = 0;
  std::size_t end = 0;  // above begin
  float scale = 0;
  float* out = nullptr;  // (heads, head_dim)
};

struct VectorOps {
  const char* name;
  std::size_t width;          // floats in a vector
  std::size_t panel_vectors;  // vectors of outputs in a panel
  std::size_t tile_rows;

  void (*linear_tile)(DType dtype, const LinearTile& tile);
  void (*attend)(const AttendCall& call);
  void (*rms_norm)(const float* in, const float* weight, std::size_t size, float eps, float* out);
  // One head; cosines and sines: (pairs). `interleaved` as RopeLayout::kInterleaved.
  void (*rotate)(float* head, std::size_t pairs, const float* cosines, const float* sines, bool interleaved);
  void (*silu_multiply)(const float* gate, const float* up, std::size_t size, float* out);
  void (*add)(const float* addend, std::size_t size, float* sum);
  void (*widen)(const void* in, DType dtype, std::size_t size, float* out);
  void (*narrow)(const float* in, DType dtype, std::size_t size, void* out);
};

extern const VectorOps kAvx2Ops;
extern const VectorOps kAvx512Ops;

}  // namespace troupe::kernels
