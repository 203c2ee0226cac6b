#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/linear.h"
#include "runtime/base/result.h"

namespace troupe::kernels {

// out(rows, outs) = in * weight^T, and the bias. All pointers are of the device. Rows lie at multiples of 16 bytes.
//   kBF16   float32 sums
//   kI8     sums of whole numbers, in int32
//   kE4M3   float32 sums; compute capability 8.9 and newer
// Of kI8 and kE4M3, cols and outs are multiples of 16, and out's rows lie at multiples of 16 bytes.
struct LibraryProduct {
  DType dtype = DType::kBF16;
  const void* in = nullptr;      // (rows, cols)
  std::size_t in_stride = 0;     // elements
  const void* weight = nullptr;  // (outs, cols)
  std::size_t weight_stride = 0;
  const float* bias = nullptr;  // (outs), or null; of kBF16 alone
  void* out = nullptr;          // (rows, outs): float32, or int32 of kI8
  std::size_t out_stride = 0;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t outs = 0;
};

// NVIDIA's cuBLASLt, which is found when the program runs, not linked.
//
// A row's bits depend on how many rows there are, since the library chooses its kernels by shape, but for kI8: only for
// those who ask for it (large_linear).
// Thread-safety: one thread at a time.
class CublasLt {
 public:
  // Device memory that the library may use during a product.
  static constexpr std::size_t kWorkspaceBytes = std::size_t{32} << 20;

  virtual ~CublasLt() = default;

  // Asynchronous on the stream, which is a real GPU's. workspace: kWorkspaceBytes, at a multiple of 256 bytes.
  // Errors: the library knows no way for this shape, or fails; the GPU has no products of this type.
  virtual Result<void> multiply(Stream stream, const LibraryProduct& product, std::byte* workspace) = 0;
};

// Errors: this build has no CUDA; the library is not there, is of another version or does not start.
Result<std::unique_ptr<CublasLt>> open_cublaslt();

// The oldest GPU that has products of kE4M3: 8.9, Ada.
constexpr int kMinFp8Capability = 89;

// How weights other than kInt8 are multiplied.
enum class LargeProducts : std::uint8_t {
  kBf16,
  kFp8,  // weights and inputs rounded to E4M3, each row with a factor of its own: half the bytes, twice the speed
};

// linear() for many rows by means of cuBLASLt: weights of any format are unpacked first, which pays from some hundreds
// of rows on. kInt8 is multiplied as it is, and gives the bits of linear(). workspace: large_linear_workspace_bytes of
// the rows, cols and the most outs of a product, at a multiple of 256 bytes; call.workspace is not used. Errors: those
// of multiply().
Result<void> large_linear(CublasLt& library, Stream stream, const LinearCall& call, LargeProducts products,
                          std::byte* workspace);
std::size_t large_linear_workspace_bytes(std::size_t rows, std::size_t cols, std::size_t outs);

}  // namespace troupe::kernels
