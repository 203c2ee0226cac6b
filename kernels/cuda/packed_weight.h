#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/quant.h"
#include "kernels/tensor.h"

namespace troupe::kernels {

// Weights as the GPU's kernels read them. The host makes an image, the caller copies it to the device, and everything
// that multiplies (kernels/cuda/linear.h) takes a GpuWeight, which says where it lies.
//
// Outputs go in panels of 16, inputs in units: 64 of a quantised type, 32 of a float type, whose 64 bytes of input
// each are two steps of a tensor core's product. A panel is a sequence of units from the first input to the last. What
// lane l of a warp needs of a step, its fragment, is four words a[0] to a[3] of four inputs (quantised) or two (float):
// outputs l / 4 and l / 4 + 8 at word l % 4, then the same outputs at word l % 4 + 4 of the step. A unit is, for each
// lane in turn, 16 bytes:
//   kBF16, kF16       of step 0, then, for each lane again, of step 1: 1,024 bytes
//   kF32              the same of the upper 8 bits of the mantissas, as bf16, then of the next 8: 2,048 bytes
//   kQ8_0, kInt8      as kBF16, signed bytes; kQ8_0 with scales: 1,088 bytes
//   kQ4_0, kInt4      word i holds a[i] of step 0 in the lower halves of its bytes, of step 1 in the upper; scales: 576
//   kQ5_0             the same, then 4 bytes a lane whose bit 8 j + 4 step + i is the fifth bit of byte j of a[i];
//                     scales: 704
//   scales            f16 of each 32 inputs; for g from 0 to 7: outputs g, g, g + 8, g + 8, blocks 0, 1, 0, 1
// The K formats go in chunks of four units, whose quants (as kQ4_0, kQ5_0 without their scales; kQ6_K with 8 bytes a
// lane whose bits 8 j + 2 i and the next, of word `step`, are the upper two of byte j of a[i]) are followed by
//   kQ4_K, kQ5_K      for each output, u8 scale[8], u8 min[8]; then for g from 0 to 7 f16 d[g], dmin[g], d[g + 8],
//                     dmin[g + 8]: 2,368 and 2,880 bytes
//   kQ6_K             for each output, i8 scale[16]; then for g from 0 to 7 f16 d[g], d[g + 8]; 32 bytes of nothing:
//                     3,392 bytes
// An image of kInt8 ends with the outputs' f32 scales. Outputs and inputs that a last panel or unit lacks are zeros.
// Where each is read: kernels/cuda/weight_formats.cuh.
struct GpuWeight {
  const std::byte* image = nullptr;  // on the device, at a multiple of 16 bytes
  DType dtype = DType::kBF16;        // as it was stored; any that pack_for_gpu takes
  std::size_t rows = 0;              // out_features
  std::size_t cols = 0;              // in_features
};

// Bytes of an image. dtype: kBF16, kF16, kF32, or any quantised one.
std::size_t gpu_image_bytes(DType dtype, std::size_t rows, std::size_t cols);

// Writes the image of a weight. image: gpu_image_bytes, at a multiple of 4. Thread-safety: these touch only their
// arguments.
void pack_for_gpu(const WeightView& weight, std::span<std::byte> image);

// The same in parts, which may be written in any order, by several threads: chunks from first_chunk on, counted through
// all panels, gpu_chunk_bytes each; and the scales that end the image of kInt8, one for each output of a panel.
void pack_chunks_for_gpu(const WeightView& weight, std::size_t first_chunk, std::span<std::byte> chunks);
void pack_scales_for_gpu(const WeightView& weight, std::span<float> scales);

// How the images are divided.
constexpr std::size_t kGpuPanelOuts = 16;
constexpr std::size_t kGpuUnitBytes = 64;  // of a row's prepared input

// Inputs in a unit.
constexpr std::size_t gpu_unit_inputs(DType dtype) { return is_quantised(dtype) ? 64 : 32; }

// Units that share their scales.
constexpr std::size_t gpu_chunk_units(DType dtype) {
  return is_block_format(dtype) && block_elements(dtype) == 256 ? 4 : 1;
}

// Units of a row, whole chunks.
constexpr std::size_t gpu_units(DType dtype, std::size_t cols) {
  const std::size_t chunk = gpu_unit_inputs(dtype) * gpu_chunk_units(dtype);
  return (cols + chunk - 1) / chunk * gpu_chunk_units(dtype);
}

// Bytes of a chunk of a panel.
constexpr std::size_t gpu_chunk_bytes(DType dtype) {
  switch (dtype) {
    case DType::kF32: return 2048;
    case DType::kQ8_0: return 1088;
    case DType::kQ4_0:
    case DType::kInt4: return 576;
    case DType::kQ5_0: return 704;
    case DType::kQ4_K: return 2368;
    case DType::kQ5_K: return 2880;
    case DType::kQ6_K: return 3392;
    default: return 1024;
  }
}

constexpr std::size_t gpu_panels(std::size_t rows) { return (rows + kGpuPanelOuts - 1) / kGpuPanelOuts; }

constexpr std::size_t gpu_panel_bytes(DType dtype, std::size_t cols) {
  return gpu_units(dtype, cols) / gpu_chunk_units(dtype) * gpu_chunk_bytes(dtype);
}

}  // namespace troupe::kernels
