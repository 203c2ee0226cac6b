#include <algorithm>

#include "kernels/cuda/bf16_rows.h"
#include "kernels/cuda/cublaslt.h"

namespace troupe::kernels {
namespace {

constexpr std::size_t round_up(std::size_t value, std::size_t step) { return (value + step - 1) / step * step; }

constexpr std::size_t kAlignment = 256;

// Where things lie in the workspace, behind the library's own.
struct Places {
  Places(std::size_t rows, std::size_t cols, std::size_t outs)
      : stride(round_up(cols, 8)),
        in(CublasLt::kWorkspaceBytes),
        weight(in + round_up(rows * stride * sizeof(std::uint16_t), kAlignment)),
        product(weight + round_up(outs * stride * sizeof(std::uint16_t), kAlignment)),
        end(product + rows * outs * sizeof(float)) {}

  std::size_t stride;  // of the bf16 matrices
  std::size_t in;
  std::size_t weight;
  std::size_t product;
  std::size_t end;
};

}  // namespace

std::size_t large_linear_workspace_bytes(std::size_t rows, std::size_t cols, std::size_t outs) {
  return Places(rows, cols, outs).end;
}

Result<void> large_linear(CublasLt& library, Stream stream, const LinearCall& call, std::byte* workspace) {
  std::size_t most_outs = 0;
  for (std::size_t i = 0; i < call.num_products; ++i) most_outs = std::max(most_outs, call.products[i].weight.rows);
  const Places places(call.rows, call.cols, most_outs);
  auto* in = reinterpret_cast<std::uint16_t*>(workspace + places.in);
  auto* weight = reinterpret_cast<std::uint16_t*>(workspace + places.weight);
  auto* product = reinterpret_cast<float*>(workspace + places.product);
  TROUPE_GPU_CALL(round_rows, stream, RoundCall{call.in, call.rows, call.cols, call.in_stride, in, places.stride});
  for (std::size_t i = 0; i < call.num_products; ++i) {
    const LinearProduct& to = call.products[i];
    const bool stores = to.epilogue == Epilogue::kStore;
    TROUPE_GPU_CALL(unpack_weight, stream, UnpackCall{to.weight, weight, places.stride});
    TROUPE_RETURN_IF_ERROR(library.multiply(stream,
                                            {.in = in,
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
    if (stores) continue;
    TROUPE_GPU_CALL(finish_product, stream,
                    EpilogueCall{product, call.rows, to.weight.rows, to.epilogue, to.out, to.out_stride});
  }
  return {};
}

}  // namespace troupe::kernels
