#include "kernels/cuda/prepared_input.h"

#include <algorithm>

#include "kernels/cuda/linear.h"

namespace troupe::kernels {
namespace {

std::size_t round_up(std::size_t value, std::size_t step) { return (value + step - 1) / step * step; }

}  // namespace

PreparedLayout::PreparedLayout(InputForm form, std::size_t rows, std::size_t cols) : rows(rows) {
  const bool is_float = form == InputForm::kBf16 || form == InputForm::kBf16Parts;
  // Whole chunks of every quantised format.
  units_a_row = is_float ? round_up(cols, 32) / 32 : round_up(cols, 256) / 64;
  units_bytes = (form == InputForm::kBf16Parts ? 2 : 1) * units_a_row * rows * kGpuUnitBytes;
  const std::size_t scales = form == InputForm::kBlocks ? units_a_row * 2 * rows : form == InputForm::kRow ? rows : 0;
  scales_bytes = round_up(scales * sizeof(float), 16);
}

PreparedInput PreparedLayout::at(std::byte* memory) const {
  return {
      .units = memory,
      .scales = reinterpret_cast<float*>(memory + units_bytes),
      .half_sums = reinterpret_cast<std::uint32_t*>(memory + units_bytes + scales_bytes),
      .rows = static_cast<std::uint32_t>(rows),
      .units_a_row = static_cast<std::uint32_t>(units_a_row),
  };
}

std::size_t linear_workspace_bytes(std::size_t rows, std::size_t cols) {
  return std::max(PreparedLayout(InputForm::kBf16Parts, rows, cols).bytes(),
                  PreparedLayout(InputForm::kBlocks, rows, cols).bytes());
}

}  // namespace troupe::kernels
