#include <algorithm>

#include "kernels/cuda/bf16_rows.h"
#include "kernels/cuda/byte_rows.h"
#include "kernels/cuda/cublaslt.h"

namespace troupe::kernels {
namespace {

constexpr std::size_t round_up(std::size_t value, std::size_t step) { return (value + step - 1) / step * step; }

constexpr std::size_t kAlignment = 256;

// Where things lie in the workspace, behind the library's own. Matrices of bytes have rows, and outputs, in multiples
// of 16, and a factor for each.
struct Places {
  Places(DType dtype, std::size_t rows, std::size_t cols, std::size_t outs)
      : stride(round_up(cols, dtype == DType::kBF16 ? 8 : 16)),
        padded_outs(dtype == DType::kBF16 ? outs : round_up(outs, kGpuPanelOuts)),
        in(CublasLt::kWorkspaceBytes),
        in_scales(in + round_up(rows * stride * size_of(dtype), kAlignment)),
        weight(in_scales + scales_bytes(dtype, rows)),
        weight_scales(weight + round_up(padded_outs * stride * size_of(dtype), kAlignment)),
        product(weight_scales + scales_bytes(dtype, padded_outs)),
        end(product + rows * padded_outs * sizeof(float)) {}

  static std::size_t scales_bytes(DType dtype, std::size_t count) {
    return dtype == DType::kBF16 ? 0 : round_up(count * sizeof(float), kAlignment);
  }

  std::size_t stride;  // elements
  std::size_t padded_outs;
  std::size_t in;
  std::size_t in_scales;
  std::size_t weight;
  std::size_t weight_scales;
  std::size_t product;
  std::size_t end;
};

// What a weight is multiplied as.
DType product_type(DType weight, LargeProducts products) {
  if (weight == DType::kInt8) return DType::kI8;
  return products == LargeProducts::kFp8 ? DType::kE4M3 : DType::kBF16;
}

// Into `in` (and in_scales) of the places.
void prepare_rows(Stream stream, const LinearCall& call, DType dtype, const Places& places, std::byte* workspace) {
  if (dtype == DType::kBF16) {
    auto* in = reinterpret_cast<std::uint16_t*>(workspace + places.in);
    TROUPE_GPU_CALL(round_rows, stream, RoundCall{call.in, call.rows, call.cols, call.in_stride, in, places.stride});
    return;
  }
  TROUPE_GPU_CALL(quantise_rows, stream,
                  QuantiseRowsCall{.in = call.in,
                                   .rows = call.rows,
                                   .cols = call.cols,
                                   .in_stride = call.in_stride,
                                   .dtype = dtype,
                                   .out = reinterpret_cast<std::uint8_t*>(workspace + places.in),
                                   .stride = places.stride,
                                   .scales = reinterpret_cast<float*>(workspace + places.in_scales)});
}

Result<void> multiply_bf16(CublasLt& library, Stream stream, const LinearCall& call, const LinearProduct& to,
                           const Places& places, std::byte* workspace) {
  const bool stores = to.epilogue == Epilogue::kStore;
  auto* weight = reinterpret_cast<std::uint16_t*>(workspace + places.weight);
  auto* product = reinterpret_cast<float*>(workspace + places.product);
  TROUPE_GPU_CALL(unpack_weight, stream, UnpackCall{to.weight, weight, places.stride});
  TROUPE_RETURN_IF_ERROR(library.multiply(stream,
                                          {.dtype = DType::kBF16,
                                           .in = workspace + places.in,
                                           .in_stride = places.stride,
                                           .weight = weight,
                                           .weight_stride = places.stride,
                                           .bias = to.bias,
                                           .out = stores ? to.out : product,
                                           .out_stride = stores ? to.out_stride : to.weight.rows,
                                           .rows = call.rows,
                                           .cols = call.cols,
                                           .outs = to.weight.rows},
                                          workspace));
  if (stores) return {};
  TROUPE_GPU_CALL(finish_product, stream,
                  EpilogueCall{product, call.rows, to.weight.rows, to.epilogue, to.out, to.out_stride});
  return {};
}

Result<void> multiply_bytes(CublasLt& library, Stream stream, const LinearCall& call, const LinearProduct& to,
                            DType dtype, const Places& places, std::byte* workspace) {
  auto* weight = reinterpret_cast<std::uint8_t*>(workspace + places.weight);
  auto* scales = reinterpret_cast<float*>(workspace + places.weight_scales);
  const std::size_t padded_outs = round_up(to.weight.rows, kGpuPanelOuts);
  TROUPE_GPU_CALL(unpack_bytes, stream, UnpackBytesCall{to.weight, dtype, weight, places.stride, scales});
  TROUPE_RETURN_IF_ERROR(library.multiply(stream,
                                          {.dtype = dtype,
                                           .in = workspace + places.in,
                                           .in_stride = places.stride,
                                           .weight = weight,
                                           .weight_stride = places.stride,
                                           .out = workspace + places.product,
                                           .out_stride = padded_outs,
                                           .rows = call.rows,
                                           .cols = places.stride,
                                           .outs = padded_outs},
                                          workspace));
  const std::byte* own_scales =
      to.weight.image + gpu_panels(to.weight.rows) * gpu_panel_bytes(to.weight.dtype, to.weight.cols);
  TROUPE_GPU_CALL(
      finish_bytes, stream,
      FinishBytesCall{.product = workspace + places.product,
                      .product_stride = padded_outs,
                      .dtype = dtype,
                      .rows = call.rows,
                      .outs = to.weight.rows,
                      .in_scales = reinterpret_cast<const float*>(workspace + places.in_scales),
                      .weight_scales = dtype == DType::kI8 ? reinterpret_cast<const float*>(own_scales) : scales,
                      .bias = to.bias,
                      .epilogue = to.epilogue,
                      .out = to.out,
                      .out_stride = to.out_stride});
  return {};
}

}  // namespace

std::size_t large_linear_workspace_bytes(std::size_t rows, std::size_t cols, std::size_t outs) {
  return std::max(Places(DType::kBF16, rows, cols, outs).end, Places(DType::kI8, rows, cols, outs).end);
}

Result<void> large_linear(CublasLt& library, Stream stream, const LinearCall& call, LargeProducts products,
                          std::byte* workspace) {
  std::size_t most_outs = 0;
  for (std::size_t i = 0; i < call.num_products; ++i) most_outs = std::max(most_outs, call.products[i].weight.rows);
  for (std::size_t i = 0; i < call.num_products; ++i) {
    const LinearProduct& to = call.products[i];
    const DType dtype = product_type(to.weight.dtype, products);
    const Places places(dtype, call.rows, call.cols, most_outs);
    if (i == 0 || dtype != product_type(call.products[i - 1].weight.dtype, products)) {
      prepare_rows(stream, call, dtype, places, workspace);
    }
    if (dtype == DType::kBF16) {
      TROUPE_RETURN_IF_ERROR(multiply_bf16(library, stream, call, to, places, workspace));
    } else {
      TROUPE_RETURN_IF_ERROR(multiply_bytes(library, stream, call, to, dtype, places, workspace));
    }
  }
  return {};
}

}  // namespace troupe::kernels
