#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "kernels/cpu/panel_weight.h"
#include "kernels/cpu/quantised_ops.h"
#include "kernels/cpu/quantised_panels.h"
#include "kernels/cpu/team.h"

namespace troupe::kernels {

// The inputs of products with quantised weights, as these read them. What a norm yields is quantised by the norm, row
// by row while the row is in the first-level cache: products behind it find it done. In which form, follows from the
// products that read the result of the same norm before. Owns the memory, which grows to the largest call and is then
// reused.
//
// Operations other than norms say to which matrices they write. Thread-safety: as Kernels; quantise_row() from the
// team, too.
class QuantisedInputs {
 public:
  static constexpr std::size_t kMostForms = 3;  // of the same inputs

  // Both outlive this object.
  QuantisedInputs(const QuantisedOps& ops, Team& team) : ops_(ops), team_(team) {}

  // What the norm of this weight fills by quantise_row(), for each row of `out` once it is there; null where the
  // products behind it are not known.
  const QuantisedRows* before_norm(const float* weight, ConstMatrixF32 out);
  void quantise_row(ConstMatrixF32 in, std::size_t row, const QuantisedRows& to) const;

  // The next products, of at most kMostForms forms, read `in`.
  void begin(ConstMatrixF32 in);
  // `in` as this weight reads it, valid until the next begin().
  const QuantisedRows& of(ConstMatrixF32 in, const QuantisedPanels& weight);

  // An operation writes to this matrix.
  void changes(ConstMatrixF32 out);
  // From now on anything may write to any matrix.
  void forget();

 private:
  struct FormKey {
    DType dtype;
    std::size_t padded_cols;
    bool operator==(const FormKey&) const = default;
  };
  struct Form {
    QuantisedRows rows;
    std::vector<AlignedBlock> quants;
    std::vector<float> scales;
    std::vector<std::int32_t> starts;
    std::vector<float> min_sums;

    FormKey key() const { return {rows.dtype, rows.cols}; }
  };

  const QuantisedRows& take_form(std::size_t rows, const FormKey& key);
  InputTile tile_of(std::size_t row, std::size_t rows) const;

  const QuantisedOps& ops_;
  Team& team_;
  std::array<Form, 2 * kMostForms> forms_;  // of earlier products, and of those at hand
  std::size_t filled_ = 0;                  // from the first one on

  // The latest norm and its result, of which forms_ are; null when the result, or forms_, have changed since.
  const float* norm_ = nullptr;
  ConstMatrixF32 normed_;
  bool is_read_ = false;                                // by some product
  std::unordered_map<const float*, FormKey> expected_;  // by the norm's weight: of the first product behind it
};

}  // namespace troupe::kernels
