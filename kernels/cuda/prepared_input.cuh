#pragma once

#include "kernels/cuda/prepared_input.h"
#include "kernels/cuda/quantise.cuh"
#include "kernels/cuda/warp.cuh"

namespace troupe::kernels::TROUPE_GPU_NAMESPACE {

// Rows of inputs, on the device.
struct InputRows {
  const float* in;              // (.., cols)
  std::size_t stride;           // elements
  const std::uint32_t* row_of;  // row i is in(row_of[i], :), or in(i, :) where this is null
  unsigned cols;

  __device__ const float* row(unsigned index) const {
    return in + (row_of != nullptr ? row_of[index] : index) * stride;
  }
};

// Where word `word` of a unit (of 16) lies in it.
__device__ __forceinline__ unsigned word_place(unsigned word) {
  return word % 4 * 16 + word / 8 * 8 + word % 8 / 4 * 4;
}

__device__ __forceinline__ void put_word(const PreparedInput& to, unsigned unit, unsigned row, unsigned word,
                                         std::uint32_t value) {
  const std::size_t place = (std::size_t{unit} * to.rows + row) * kGpuUnitBytes + word_place(word);
  *reinterpret_cast<std::uint32_t*>(to.units + place) = value;
}

// Four inputs of a row, from `first` on, in each form. What lies beyond the row's units is left out.

// kBlocks: by a whole warp, whose lanes have inputs that follow each other.
__device__ __forceinline__ void put_block_part(const PreparedInput& to, unsigned row, unsigned first,
                                               const float (&values)[4]) {
  float largest = largest_of(values);
#pragma unroll
  for (unsigned step = 1; step < 8; step *= 2) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, step));
  const float steps = steps_a_unit(largest);
  int sum;
  const std::uint32_t word = quantise(values, steps, sum);
  sum += __shfl_xor_sync(kAllLanes, sum, 1);
  sum += __shfl_xor_sync(kAllLanes, sum, 2);
  const int other = __shfl_xor_sync(kAllLanes, sum, 4);
  if (first >= to.units_a_row * 64) return;
  put_word(to, first / 64, row, first % 64 / 4, word);
  if (threadIdx.x % 8 != 0) return;
  const std::size_t block = std::size_t{first / 32} * to.rows + row;
  to.scales[block] = steps == 0 ? 0 : largest / 127;
  to.half_sums[block] = static_cast<std::uint32_t>(sum & 0xffff) | static_cast<std::uint32_t>(other) << 16;
}

// kRow, whose largest input has 127 steps.
__device__ __forceinline__ void put_row_part(const PreparedInput& to, unsigned row, unsigned first,
                                             const float (&values)[4], float steps) {
  if (first >= to.units_a_row * 64) return;
  int sum;
  put_word(to, first / 64, row, first % 64 / 4, quantise(values, steps, sum));
}

// kBf16, or kBf16Parts.
__device__ __forceinline__ void put_bf16_part(const PreparedInput& to, unsigned row, unsigned first,
                                              const float (&values)[4], bool parts) {
  if (first >= to.units_a_row * 32) return;
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

// Turns to.rows rows into a form.
void prepare_input(Stream stream, InputForm form, const InputRows& rows, const PreparedInput& to);

}  // namespace troupe::kernels::TROUPE_GPU_NAMESPACE
