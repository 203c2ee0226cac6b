#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/gpu.h"
#include "kernels/cuda/packed_weight.h"

namespace troupe::kernels {

// What rows of inputs are turned into before they are multiplied.
enum class InputForm : std::uint8_t {
  kBf16,       // rounded
  kBf16Parts,  // the rounded number, and the rest rounded
  kBlocks,     // int8, a scale for each 32 inputs
  kRow,        // int8, one scale for the row
};

constexpr InputForm input_form(DType weight) {
  if (weight == DType::kInt8) return InputForm::kRow;
  if (is_quantised(weight)) return InputForm::kBlocks;
  return weight == DType::kF32 ? InputForm::kBf16Parts : InputForm::kBf16;
}

// Rows of inputs as kernels/cuda/weight_formats.cuh reads them, on the device. Units of 64 bytes, of 64 inputs or 32,
// in words of four inputs or two: word 8 step + 4 half + t lies at 16 t + 8 step + 4 half of the unit, so that lane t
// reads what it needs of both steps at once.
struct PreparedInput {
  std::byte* units = nullptr;          // (parts, units_a_row, rows, 64)
  float* scales = nullptr;             // kBlocks: (blocks of 32, rows); kRow: (rows)
  std::uint32_t* half_sums = nullptr;  // kBlocks: (blocks of 32, rows): the sums of 16 quants each, as two int16
  std::uint32_t rows = 0;
  std::uint32_t units_a_row = 0;
};

// Lays out `memory` for rows of inputs; bytes() of it are used.
struct PreparedLayout {
  PreparedLayout(InputForm form, std::size_t rows, std::size_t cols);
  std::size_t bytes() const { return units_bytes + 2 * scales_bytes; }
  PreparedInput at(std::byte* memory) const;

  std::size_t rows;
  std::size_t units_a_row;
  std::size_t units_bytes;
  std::size_t scales_bytes;
};

}  // namespace troupe::kernels
