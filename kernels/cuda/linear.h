#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/packed_weight.h"
#include "kernels/cuda/prepared_input.h"

namespace troupe::kernels {

// What becomes of the products of a weight.
enum class Epilogue : std::uint8_t {
  kStore,     // out = product + bias
  kSilu,      // out = silu(product + bias)
  kMultiply,  // out = out * (product + bias)
};

// One weight of a call. All pointers are of the device.
struct LinearProduct {
  GpuWeight weight;
  const float* bias = nullptr;  // (weight.rows) or null
  float* out = nullptr;         // (rows, weight.rows)
  std::size_t out_stride = 0;   // elements
  Epilogue epilogue = Epilogue::kStore;
};

constexpr std::size_t kMostProducts = 3;

// The products of some rows with up to three weights, in their order: queries, keys and values in one call; gate with
// kSilu and up with kMultiply, into the same out, are SwiGLU. Products of one type that follow each other go in one
// launch (SwiGLU block by block, so that out stays in the cache).
struct LinearCall {
  const float* in = nullptr;  // (rows, cols), on the device
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t in_stride = 0;  // elements
  LinearProduct products[kMostProducts];
  std::size_t num_products = 0;
  // Device memory for what the inputs are turned into, at a multiple of 16 bytes: linear_workspace_bytes(rows, cols).
  // Until the next call on the same stream it holds the inputs in the last product's form.
  std::byte* workspace = nullptr;
  // Whether the workspace holds the inputs already, in `form`.
  bool is_prepared = false;
  InputForm form = InputForm::kBf16;
};

// The same for the experts of a mixture (kernels/cuda/experts.h): rows [starts[e], starts[e + 1]) are multiplied with
// expert e's weights. `gate` and `up` have the same shape: with both, SwiGLU; with gate alone, its product.
struct ExpertsCall {
  const float* in = nullptr;              // row i is in(row_of[i], :)
  const std::uint32_t* row_of = nullptr;  // (rows), on the device; null: row i is in(i, :)
  std::size_t rows = 0;                   // of all experts together: what starts ends with
  std::size_t cols = 0;
  std::size_t in_stride = 0;              // elements
  const std::uint32_t* starts = nullptr;  // (num_experts + 1), on the device
  std::size_t num_experts = 0;
  const std::byte* const* gate = nullptr;  // (num_experts) images; the array lies on the device as well
  const std::byte* const* up = nullptr;    // the same, or null
  DType dtype = DType::kBF16;              // of all of them
  std::size_t outs = 0;
  float* out = nullptr;  // (rows, outs)
  std::size_t out_stride = 0;
  std::byte* workspace = nullptr;  // as in LinearCall
};

// For a call of up to so many rows and inputs, whatever the weights' types.
std::size_t linear_workspace_bytes(std::size_t rows, std::size_t cols);

// Numbers. A row's result has the same bits in a batch of any size, and alone: one order of sums serves all kernels.
// The inputs of a row go in segments, at most 16, of whole groups of 256 (128 of float weights; 64 of kF32):
//   out = ((segment 0 + segment 1) + segment 2) + ... + bias
// A segment of a quantised weight is, by formula, what kernels/cpu/quantised_ops.h says, the inputs quantised the same
// way; in kInt8 the whole row is one sum of whole numbers, and the result that of the CPU to the bit. With float
// weights the inputs are rounded to bf16, and so are kF32's weights, but in two parts each, which leaves 16 bits; a
// segment is a chain of tensor-core products.
//
// Thread-safety: asynchronous on the stream; calls that share a workspace share a stream. Sizes that do not match are
// bugs (assertions).
TROUPE_GPU_FUNCTIONS(void linear(Stream stream, const LinearCall& call);)
TROUPE_GPU_FUNCTIONS(void experts_linear(Stream stream, const ExpertsCall& call);)

}  // namespace troupe::kernels
