#include "kernels/cpu/vector_kernels.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/half.h"
#include "kernels/cpu/kv_slots.h"
#include "kernels/cpu/packed_panels.h"
#include "kernels/cpu/packed_tiles.h"
#include "kernels/cpu/paged_attention.h"
#include "kernels/cpu/panel_product.h"
#include "kernels/cpu/quantised_inputs.h"
#include "kernels/cpu/quantised_linear.h"

namespace troupe::kernels {
namespace {

// A piece of work below this many multiply-adds is not worth another thread's attention (some microseconds).
constexpr std::size_t kPieceMultiplyAdds = 32 * 1024;

constexpr std::size_t kProjections = 3;  // of QkvWeights

std::size_t divide_up(std::size_t value, std::size_t divisor) { return (value + divisor - 1) / divisor; }

class VectorKernels : public CpuKernels {
 public:
  VectorKernels(std::string_view name, const VectorOps& ops, const TileOps* tiles, const QuantisedOps& quantised_ops,
                std::unique_ptr<Team> team)
      : name_(name),
        ops_(ops),
        tiles_(tiles),
        team_(std::move(team)),
        product_(*team_),
        quantised_inputs_(quantised_ops, *team_),
        quantised_(quantised_ops, *team_, quantised_inputs_),
        attention_(ops, *team_) {}

  std::string_view name() const override { return name_; }

  Result<std::unique_ptr<PackedWeight>> pack(const WeightView& weight, std::size_t group,
                                             std::span<const std::byte> image, void*) override {
    if (is_quantised(weight.dtype))
      return std::unique_ptr<PackedWeight>(std::make_unique<QuantisedPanels>(weight, *team_, image));
    if (tiles_ != nullptr && weight.dtype == DType::kBF16) {
      return std::unique_ptr<PackedWeight>(std::make_unique<PackedTiles>(weight, group, *tiles_, *team_, image));
    }
    return std::unique_ptr<PackedWeight>(std::make_unique<PackedPanels>(weight, group, ops_, *team_, image));
  }

  StepRows begin_step(const StepLists& lists) override {
    quantised_inputs_.forget();
    return CpuKernels::begin_step(lists);
  }

  void linear(ConstMatrixF32 in, const LinearWeight& linear, MatrixF32 out) override {
    assert(in.rows == out.rows && in.cols == linear.weight->cols() && out.cols == linear.weight->rows());
    quantised_inputs_.changes(out);
    if (is_quantised_weight(linear)) return quantised_.run(in, linear, out);
    const ProductPart part{linear, {}};
    product_.run(in, {&part, 1}, 0, [&](const PanelSums& sums) {
      for (std::size_t row = 0; row < sums.rows; ++row) {
        std::copy_n(sums.row(row), sums.outs, out.row(sums.first_row + row) + sums.first_out);
      }
    });
  }

  void swiglu(ConstMatrixF32 in, const LinearWeight& gate, const LinearWeight& up, MatrixF32 out) override {
    assert(in.rows == out.rows && in.cols == gate.weight->cols() && out.cols == gate.weight->rows());
    assert(up.weight->rows() == gate.weight->rows() && up.weight->cols() == gate.weight->cols());
    quantised_inputs_.changes(out);
    if (is_quantised_weight(gate) != is_quantised_weight(up)) {
      const MatrixF32 gates = room(gates_, out.rows, out.cols);
      linear(in, gate, gates);
      linear(in, up, out);
      for_each(out.rows, out.cols, [&](std::size_t row, std::size_t) {
        ops_.silu_multiply(gates.row(row), out.row(row), out.cols, out.row(row));
      });
      return;
    }
    const ProductPart part{gate, up};
    multiply(in, {&part, 1}, 0, [&](const PanelSums& sums) {
      for (std::size_t row = 0; row < sums.rows; ++row) {
        float* to = out.row(sums.first_row + row) + sums.first_out;
        ops_.silu_multiply(sums.row(row), sums.second_row(row), sums.outs, to);
      }
    });
  }

  void project_qkv(ConstMatrixF32 in, const QkvWeights& weights, const Rotary& rotary, MatrixF32 queries,
                   const PagedKv& kv) override {
    assert(queries.rows == in.rows && step().slots.size() == in.rows && step().positions.size() == in.rows);
    assert(2 * rotary.inverse_frequencies.size() <= kv.head_dim && is_page_type(kv.dtype));
    quantised_inputs_.changes(queries);
    prepare_angles(rotary);
    // Those of one kind together: neither has to wait for the other's round of the team.
    const std::array<ProductPart, kProjections> projections = {
        ProductPart{weights.query, {}}, ProductPart{weights.key, {}}, ProductPart{weights.value, {}}};
    for (const bool quantised : {false, true}) {
      std::array<ProductPart, kProjections> parts;
      std::array<std::size_t, kProjections> which;
      std::size_t count = 0;
      for (std::size_t i = 0; i < kProjections; ++i) {
        if (is_quantised_weight(projections[i].first) != quantised) continue;
        parts[count] = projections[i];
        which[count++] = i;
      }
      if (count == 0) continue;
      multiply(in, std::span(parts).first(count), kv.head_dim, [&](const PanelSums& sums) {
        for (std::size_t i = 0; i < sums.outs / kv.head_dim; ++i) {
          const std::size_t head = sums.first_out / kv.head_dim + i;
          for (std::size_t row = 0; row < sums.rows; ++row) {
            float* values = sums.row(row) + i * sums.group_stride;
            finish_head(weights, rotary, which[sums.part], head, sums.first_row + row, values, queries, kv);
          }
        }
      });
    }
  }

  void gather_logits_rows(ConstMatrixF32 in, std::size_t first, MatrixF32 out) override {
    quantised_inputs_.changes(out);
    CpuKernels::gather_logits_rows(in, first, out);
  }

  void scale_by_sigmoid(ConstMatrixF32 in, std::span<const float> weight, MatrixF32 out) override {
    quantised_inputs_.changes(out);
    CpuKernels::scale_by_sigmoid(in, weight, out);
  }

  void embed(const WeightView& table, std::uint32_t first_row, MatrixF32 out) override {
    const std::span<const std::uint32_t> tokens = step().tokens;
    assert(out.rows == tokens.size() && out.cols == table.cols);
    assert(is_float_storage(table.dtype) || is_quantised(table.dtype));
    quantised_inputs_.changes(out);
    for_each(tokens.size(), out.cols, [&](std::size_t row, std::size_t) {
      const bool held = tokens[row] >= first_row && tokens[row] - first_row < table.rows;
      if (!held) {
        std::fill_n(out.row(row), out.cols, 0.0f);
        return;
      }
      if (is_quantised(table.dtype)) return dequantize_row(table, tokens[row] - first_row, out.row(row));
      const std::size_t offset = (tokens[row] - first_row) * table.row_stride * size_of(table.dtype);
      ops_.widen(static_cast<const std::byte*>(table.data) + offset, table.dtype, out.cols, out.row(row));
    });
  }

  void rms_norm(ConstMatrixF32 in, std::span<const float> weight, float eps, MatrixF32 out) override {
    assert(in.rows == out.rows && in.cols == out.cols && weight.size() == in.cols);
    const QuantisedRows* quantised = quantised_inputs_.before_norm(weight.data(), out);
    for_each(in.rows, in.cols,
             [&](std::size_t row, std::size_t) { norm_row(in.row(row), weight, eps, out, row, quantised); });
  }

  void add_rms_norm(ConstMatrixF32 addend, MatrixF32 sum, std::span<const float> weight, float eps,
                    MatrixF32 out) override {
    assert(addend.rows == sum.rows && addend.cols == sum.cols && out.rows == sum.rows && out.cols == sum.cols);
    const QuantisedRows* quantised = quantised_inputs_.before_norm(weight.data(), out);
    for_each(sum.rows, 2 * sum.cols, [&](std::size_t row, std::size_t) {
      ops_.add(sum.row(row), addend.row(row), sum.cols, sum.row(row));
      norm_row(sum.row(row), weight, eps, out, row, quantised);
    });
  }

  void attention(ConstMatrixF32 queries, const PagedKv& kv, std::size_t shape, MatrixF32 out) override {
    quantised_inputs_.changes(out);
    attention_.run(queries, kv, step().attention, step().shapes[shape], out);
  }

  void add(ConstMatrixF32 addend, MatrixF32 sum) override {
    assert(addend.rows == sum.rows && addend.cols == sum.cols);
    quantised_inputs_.changes(sum);
    for_each(sum.rows, sum.cols,
             [&](std::size_t row, std::size_t) { ops_.add(sum.row(row), addend.row(row), sum.cols, sum.row(row)); });
  }

 private:
  // Calls work(index, member) for every index below `count`, each costing about `multiply_adds`, in pieces that are
  // worth handing out.
  template <class Work>
  void for_each(std::size_t count, std::size_t multiply_adds, const Work& work) {
    const std::size_t together = std::max<std::size_t>(1, kPieceMultiplyAdds / std::max<std::size_t>(1, multiply_adds));
    team_->run(divide_up(count, together), [&](std::size_t piece, std::size_t member) {
      const std::size_t end = std::min(count, (piece + 1) * together);
      for (std::size_t index = piece * together; index < end; ++index) work(index, member);
    });
  }

  static bool is_quantised_weight(const LinearWeight& linear) {
    return dynamic_cast<const QuantisedPanels*>(linear.weight) != nullptr;
  }

  // Weights of one kind: all quantised, or none.
  template <class Finish>
  void multiply(ConstMatrixF32 in, std::span<const ProductPart> parts, std::size_t group, const Finish& finish) {
    if (is_quantised_weight(parts.front().first)) {
      quantised_.run(in, parts, group, finish);
    } else {
      product_.run(in, parts, group, finish);
    }
  }

  // What products read of a norm's row is made while that is in the first-level cache.
  void norm_row(const float* in, std::span<const float> weight, float eps, MatrixF32 out, std::size_t row,
                const QuantisedRows* quantised) const {
    ops_.rms_norm(in, weight.data(), weight.size(), eps, out.row(row));
    if (quantised != nullptr) quantised_inputs_.quantise_row(out, row, *quantised);
  }

  // (rows, cols), until the next call.
  static MatrixF32 room(std::vector<float>& memory, std::size_t rows, std::size_t cols) {
    if (memory.size() < rows * cols) memory.resize(rows * cols);
    return {memory.data(), rows, cols};
  }

  // What is left to do with one projected head of one row, while it is in the first-level cache. part: query, key,
  // value.
  void finish_head(const QkvWeights& weights, const Rotary& rotary, std::size_t part, std::size_t head, std::size_t row,
                   float* values, MatrixF32 queries, const PagedKv& kv) const {
    const std::size_t head_dim = kv.head_dim;
    if (part < 2) {
      const std::span<const float> norm = part == 0 ? weights.query_norm : weights.key_norm;
      if (!norm.empty()) ops_.rms_norm(values, norm.data(), head_dim, weights.eps, values);
      const std::size_t pairs = rotary.inverse_frequencies.size();
      ops_.rotate(values, pairs, cosines_.data() + row * pairs, sines_.data() + row * pairs,
                  rotary.layout == RopeLayout::kInterleaved);
    }
    if (part == 0) {
      std::copy_n(values, head_dim, queries.row(row) + head * head_dim);
      return;
    }
    const std::uint32_t slot = step().slots[row];
    assert(slot < kv.slots());
    if (part == 1) {
      store_key(values, kv, slot, head);
    } else if (has_page_scales(kv.dtype)) {
      store_value(values, kv, slot, head);
    } else {
      const std::size_t offset = kv.value_index(slot, head) * size_of(kv.dtype);
      ops_.narrow(values, kv.dtype, head_dim, static_cast<std::byte*>(kv.values) + offset);
    }
  }

  // Fills cosines_ and sines_, (positions, pairs) each. All layers of a step ask for the same.
  void prepare_angles(const Rotary& rotary) {
    if (std::ranges::equal(step().positions, positions_) &&
        std::ranges::equal(rotary.inverse_frequencies, frequencies_) && rotary.magnitude == magnitude_) {
      return;
    }
    positions_.assign(step().positions.begin(), step().positions.end());
    frequencies_.assign(rotary.inverse_frequencies.begin(), rotary.inverse_frequencies.end());
    magnitude_ = rotary.magnitude;
    const std::size_t pairs = frequencies_.size();
    cosines_.resize(positions_.size() * pairs);
    sines_.resize(positions_.size() * pairs);
    for_each(positions_.size(), 64 * pairs, [&](std::size_t row, std::size_t) {
      for (std::size_t pair = 0; pair < pairs; ++pair) {
        // In double: at position 100,000 a float32 angle is already off by 0.004.
        const double angle = double(positions_[row]) * frequencies_[pair];
        cosines_[row * pairs + pair] = static_cast<float>(std::cos(angle) * magnitude_);
        sines_[row * pairs + pair] = static_cast<float>(std::sin(angle) * magnitude_);
      }
    });
  }

  std::string_view name_;
  const VectorOps& ops_;
  const TileOps* tiles_;  // null: none
  std::unique_ptr<Team> team_;
  PanelProduct product_;
  QuantisedInputs quantised_inputs_;
  QuantisedLinear quantised_;
  PagedAttention attention_;
  std::vector<float> gates_;  // of a swiglu whose weights are of two kinds

  // Of the latest project_qkv.
  std::vector<std::uint32_t> positions_;
  std::vector<float> frequencies_;
  float magnitude_ = 0;
  std::vector<float> cosines_;  // (positions, frequencies)
  std::vector<float> sines_;    // (positions, frequencies)
};

}  // namespace

std::unique_ptr<Kernels> make_vector_kernels(std::string_view name, const VectorOps& ops, const TileOps* tiles,
                                             const QuantisedOps& quantised_ops, std::unique_ptr<Team> team) {
  return std::make_unique<VectorKernels>(name, ops, tiles, quantised_ops, std::move(team));
}

}  // namespace troupe::kernels
