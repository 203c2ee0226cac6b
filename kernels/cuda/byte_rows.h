#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/packed_weight.h"

namespace troupe::kernels {

// Matrices of bytes by rows, as libraries multiply them: kI8 or kE4M3, with a factor for each row. All pointers are of
// the device. Rows lie `stride` bytes apart, a multiple of 16; what they have beyond their columns is zeros.

// Rows of inputs. kI8 as InputForm::kRow has them (kernels/cuda/prepared_input.h), kE4M3 with the largest becoming 448.
struct QuantiseRowsCall {
  const float* in = nullptr;  // (rows, cols)
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t in_stride = 0;  // elements
  DType dtype = DType::kI8;
  std::uint8_t* out = nullptr;  // (rows, cols)
  std::size_t stride = 0;
  float* scales = nullptr;  // (rows)
};

// The rows of a weight, up to whole panels, whose last ones are zeros. dtype kI8: of kInt8, as it is; kE4M3: of any
// format (kF32 rounded to bf16 first), with each row's largest becoming 448.
struct UnpackBytesCall {
  GpuWeight weight;
  DType dtype = DType::kI8;
  std::uint8_t* out = nullptr;  // (gpu_panels(weight.rows) * 16, weight.cols)
  std::size_t stride = 0;
  float* scales = nullptr;  // (gpu_panels(weight.rows) * 16), of kE4M3; kInt8 has its own
};

// out = epilogue(product * in_scale * weight_scale + bias).
struct FinishBytesCall {
  const void* product = nullptr;  // (rows, outs): int32 of kI8, float32 of kE4M3
  std::size_t product_stride = 0;
  DType dtype = DType::kI8;
  std::size_t rows = 0;
  std::size_t outs = 0;
  const float* in_scales = nullptr;      // (rows)
  const float* weight_scales = nullptr;  // (outs)
  const float* bias = nullptr;           // (outs) or null
  Epilogue epilogue = Epilogue::kStore;
  float* out = nullptr;  // (rows, outs)
  std::size_t out_stride = 0;
};

// Thread-safety: asynchronous on the stream.
TROUPE_GPU_FUNCTIONS(void quantise_rows(Stream stream, const QuantiseRowsCall& call);
                     void unpack_bytes(Stream stream, const UnpackBytesCall& call);
                     void finish_bytes(Stream stream, const FinishBytesCall& call);)

}  // namespace troupe::kernels
