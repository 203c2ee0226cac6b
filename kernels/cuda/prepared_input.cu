#include "kernels/cuda/prepared_input.cuh"

#include "kernels/cuda/quantise.cuh"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kWarps = kThreads / 32;
constexpr unsigned kAll = 0xffffffff;

// Where word `word` of a unit (of 16) lies in it.
__device__ __forceinline__ unsigned word_place(unsigned word) {
  return word % 4 * 16 + word / 8 * 8 + word % 8 / 4 * 4;
}

__device__ __forceinline__ void put_word(const PreparedInput& to, unsigned unit, unsigned row, unsigned word,
                                         std::uint32_t value) {
  const std::size_t place = (std::size_t{unit} * to.rows + row) * kGpuUnitBytes + word_place(word);
  *reinterpret_cast<std::uint32_t*>(to.units + place) = value;
}

// One block of threads takes 1,024 inputs of a row, a thread four of them.
__global__ void __launch_bounds__(kThreads) quantise_blocks(InputRows rows, PreparedInput to) {
  const unsigned row = blockIdx.y;
  const unsigned first = (blockIdx.x * kThreads + threadIdx.x) * 4;
  float values[4];
  load_four(rows.row(row), first, rows.cols, values);
  float largest = largest_of(values);
#pragma unroll
  for (unsigned step = 1; step < 8; step *= 2) largest = fmaxf(largest, __shfl_xor_sync(kAll, largest, step));
  const float steps = steps_a_unit(largest);
  int sum;
  const std::uint32_t word = quantise(values, steps, sum);
  sum += __shfl_xor_sync(kAll, sum, 1);
  sum += __shfl_xor_sync(kAll, sum, 2);
  const int other = __shfl_xor_sync(kAll, sum, 4);
  if (first >= to.units_a_row * 64) return;
  put_word(to, first / 64, row, first % 64 / 4, word);
  if (threadIdx.x % 8 != 0) return;
  const std::size_t block = std::size_t{first / 32} * to.rows + row;
  to.scales[block] = steps == 0 ? 0 : largest / 127;
  to.half_sums[block] = static_cast<std::uint32_t>(sum & 0xffff) | static_cast<std::uint32_t>(other) << 16;
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
  for (unsigned step = 1; step < 32; step *= 2) largest = fmaxf(largest, __shfl_xor_sync(kAll, largest, step));
  if (threadIdx.x % 32 == 0) warp_largest[threadIdx.x / 32] = largest;
  __syncthreads();
#pragma unroll
  for (unsigned warp = 0; warp < kWarps; ++warp) largest = fmaxf(largest, warp_largest[warp]);
  const float steps = steps_a_unit(largest);
  for (unsigned first = threadIdx.x * 4; first < to.units_a_row * 64; first += kThreads * 4) {
    load_four(in, first, rows.cols, values);
    int sum;
    put_word(to, first / 64, row, first % 64 / 4, quantise(values, steps, sum));
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
#pragma unroll
  for (unsigned pair = 0; pair < 2; ++pair) {
    std::uint32_t upper = 0, lower = 0;
#pragma unroll
    for (unsigned i = 0; i < 2; ++i) {
      const float value = values[2 * pair + i];
      const std::uint32_t bits = rounded_bf16(value);
      upper |= bits << (16 * i);
      const float rest = value - __uint_as_float(bits << 16);
      // Of an infinity nothing is left.
      if ((bits & 0x7f80) != 0x7f80) lower |= rounded_bf16(rest) << (16 * i);
    }
    put_word(to, first / 32, row, first % 32 / 2 + pair, upper);
    if (parts) put_word(to, to.units_a_row + first / 32, row, first % 32 / 2 + pair, lower);
  }
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
