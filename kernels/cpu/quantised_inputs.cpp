#include "kernels/cpu/quantised_inputs.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <functional>

namespace troupe::kernels {
namespace {

// Numbers to quantise that are worth a round of the team.
constexpr std::size_t kQuantiseAlone = 16 << 10;

std::size_t divide_up(std::size_t value, std::size_t divisor) { return (value + divisor - 1) / divisor; }

template <class T>
T* room(std::vector<T>& memory, std::size_t count) {
  if (memory.size() < count) memory.resize(count);
  return memory.data();
}

bool is_same(const ConstMatrixF32& a, const ConstMatrixF32& b) {
  return a.data == b.data && a.rows == b.rows && a.cols == b.cols && a.row_stride == b.row_stride;
}

}  // namespace

const QuantisedRows* QuantisedInputs::before_norm(const float* weight, ConstMatrixF32 out) {
  forget();
  norm_ = weight;
  normed_ = out;
  const auto expected = expected_.find(weight);
  if (expected == expected_.end() || out.rows == 0) return nullptr;
  return &take_form(out.rows, expected->second);
}

void QuantisedInputs::begin(ConstMatrixF32 in) {
  if (norm_ == nullptr || !is_same(in, normed_)) forget();
  if (filled_ > kMostForms) filled_ = 0;
}

const QuantisedRows& QuantisedInputs::of(ConstMatrixF32 in, const QuantisedPanels& weight) {
  const FormKey key{weight.dtype(), weight.padded_cols()};
  if (norm_ != nullptr && !is_read_) expected_.insert_or_assign(norm_, key);
  is_read_ = true;
  for (std::size_t i = 0; i < filled_; ++i) {
    if (forms_[i].key() == key) return forms_[i].rows;
  }
  const QuantisedRows& to = take_form(in.rows, key);
  const std::size_t rows_a_piece = std::max<std::size_t>(1, kQuantiseAlone / std::max<std::size_t>(1, to.cols));
  team_.run(divide_up(in.rows, rows_a_piece), [&](std::size_t piece, std::size_t) {
    const std::size_t end = std::min(in.rows, (piece + 1) * rows_a_piece);
    for (std::size_t row = piece * rows_a_piece; row < end; ++row) quantise_row(in, row, to);
  });
  return to;
}

void QuantisedInputs::changes(ConstMatrixF32 out) {
  if (norm_ == nullptr) return;
  const auto end_of = [](const ConstMatrixF32& matrix) { return matrix.data + matrix.rows * matrix.row_stride; };
  const std::less<const float*> before;
  if (before(out.data, end_of(normed_)) && before(normed_.data, end_of(out))) forget();
}

void QuantisedInputs::forget() {
  norm_ = nullptr;
  is_read_ = false;
  filled_ = 0;
}

void QuantisedInputs::quantise_row(ConstMatrixF32 in, std::size_t row, const QuantisedRows& to) const {
  const InputTile tile = tile_of(row, in.rows);
  ops_.quantise_row(in.row(row), in.cols, to, tile, row - tile.first);
}

const QuantisedRows& QuantisedInputs::take_form(std::size_t rows, const FormKey& key) {
  assert(filled_ < forms_.size());
  Form& form = forms_[filled_++];
  const auto [dtype, cols] = key;
  const std::size_t starts = rows * starts_of(dtype, cols);
  form.rows = {
      .dtype = dtype,
      .quants = reinterpret_cast<std::int8_t*>(room(form.quants, divide_up(rows * cols, sizeof(AlignedBlock)))),
      .scales = room(form.scales, rows * scales_of(dtype, cols)),
      .starts = room(form.starts, starts),
      .min_sums = room(form.min_sums, starts),
      .cols = cols,
  };
  return form.rows;
}

// The tile that `row` of a batch of `rows` belongs to: full ones, then the powers of two that make up the rest.
InputTile QuantisedInputs::tile_of(std::size_t row, std::size_t rows) const {
  const std::size_t full = rows / ops_.tile_rows * ops_.tile_rows;
  if (row < full) return {row / ops_.tile_rows * ops_.tile_rows, ops_.tile_rows};
  for (InputTile tile{full, 0};; tile.first += tile.count) {
    tile.count = std::bit_floor(rows - tile.first);
    if (row < tile.first + tile.count) return tile;
  }
}

}  // namespace troupe::kernels
