#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/linear.h"
#include "runtime/base/result.h"

namespace troupe::kernels {

// out(rows, outs) = in * weight^T + bias, with bf16 numbers and float32 sums. All pointers are of the device; strides
// are in elements, those of bf16 matrices multiples of 8, and their data lies at multiples of 16 bytes.
struct Bf16Product {
  const std::uint16_t* in = nullptr;  // (rows, cols)
  std::size_t in_stride = 0;
  const std::uint16_t* weight = nullptr;  // (outs, cols)
  std::size_t weight_stride = 0;
  const float* bias = nullptr;  // (outs) or null
  float* out = nullptr;         // (rows, outs)
  std::size_t out_stride = 0;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t outs = 0;
};

// NVIDIA's cuBLASLt, which is found when the program runs, not linked.
//
// A row's bits depend on how many rows there are, since the library chooses its kernels by shape: only for those who
// ask for it (large_linear).
// Thread-safety: one thread at a time.
class CublasLt {
 public:
  // Device memory that the library may use during a product.
  static constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;

  virtual ~CublasLt() = default;

  // Asynchronous on the stream, which is a real GPU's. workspace: kWorkspaceBytes, at a multiple of 256 bytes.
  // Errors: the library knows no way for this shape, or fails.
  virtual Result<void> multiply(Stream stream, const Bf16Product& product, std::byte* workspace) = 0;
};

// Errors: this build has no CUDA; the library is not there, is of another version or does not start.
Result<std::unique_ptr<CublasLt>> open_cublaslt();

// linear() for many rows by means of cuBLASLt: weights of any format are unpacked to bf16 first, which pays from some
// hundreds of rows on. workspace: large_linear_workspace_bytes of the rows, cols and the most outs of a product, at a
// multiple of 256 bytes; call.workspace is not used. Errors: those of multiply().
Result<void> large_linear(CublasLt& library, Stream stream, const LinearCall& call, std::byte* workspace);
std::size_t large_linear_workspace_bytes(std::size_t rows, std::size_t cols, std::size_t outs);

}  // namespace troupe::kernels
