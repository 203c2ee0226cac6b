#include "kernels/cuda/prepared_input.cuh"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kWarps = kThreads / 32;

// One block of threads takes 1,024 inputs of a row, a thread four of them.
__global__ void __launch_bounds__(kThreads) quantise_blocks(InputRows rows, PreparedInput to) {
  const unsigned row = blockIdx.y;
  const unsigned first = (blockIdx.x * kThreads + threadIdx.x) * 4;
  float values[4];
  load_four(rows.row(row), first, rows.cols, values);
  put_block_part(to, row, first, values);
}

// One block of threads a row.
__global__ void __launch_bounds__(kThreads) quantise_row(InputRows rows, PreparedInput to) {
  __shared__ float warp_largest[kWarps];
  const unsigned row = blockIdx.x;
  const float* in = rows.row(row);
  float values[4];
  float largest = 0;
  for (unsigned first = threadIdx.x * 4; first < rows.cols; first += kThreads * 4) {
    load_four(in, first, rows.cols, values);
    largest = fmaxf(largest, largest_of(values));
  }
#pragma unroll
  for (unsigned step = 1; step < 32; step *= 2) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, step));
  if (threadIdx.x % 32 == 0) warp_largest[threadIdx.x / 32] = largest;
  __syncthreads();
#pragma unroll
  for (unsigned warp = 0; warp < kWarps; ++warp) largest = fmaxf(largest, warp_largest[warp]);
  const float steps = steps_a_unit(largest);
  for (unsigned first = threadIdx.x * 4; first < to.units_a_row * 64; first += kThreads * 4) {
    load_four(in, first, rows.cols, values);
    put_row_part(to, row, first, values, steps);
  }
  if (threadIdx.x == 0) to.scales[row] = steps == 0 ? 0 : largest / 127;
}

// One block of threads takes 1,024 inputs of a row.
__global__ void __launch_bounds__(kThreads) round_to_bf16(InputRows rows, PreparedInput to, bool parts) {
  const unsigned row = blockIdx.y;
  const unsigned first = (blockIdx.x * kThreads + threadIdx.x) * 4;
  if (first >= to.units_a_row * 32) return;
  float values[4];
  load_four(rows.row(row), first, rows.cols, values);
  put_bf16_part(to, row, first, values, parts);
}

unsigned divide_up(std::size_t value, std::size_t divisor) {
  return static_cast<unsigned>((value + divisor - 1) / divisor);
}

}  // namespace

void prepare_input(Stream stream, InputForm form, const InputRows& rows, const PreparedInput& to) {
  switch (form) {
    case InputForm::kBlocks:
      return launch(stream, {divide_up(to.units_a_row * 64, kThreads * 4), to.rows}, {kThreads}, 0, quantise_blocks,
                    rows, to);
    case InputForm::kRow: return launch(stream, {to.rows}, {kThreads}, 0, quantise_row, rows, to);
    case InputForm::kBf16:
    case InputForm::kBf16Parts:
      return launch(stream, {divide_up(to.units_a_row * 32, kThreads * 4), to.rows}, {kThreads}, 0, round_to_bf16, rows,
                    to, form == InputForm::kBf16Parts);
  }
}

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
