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
#include "kernels/cpu/quantised_linear.h"

namespace troupe::kernels {
namespace {

// A piece of work below this many multiply-adds is not worth another thread's attention (some microseconds).
constexpr std::size_t kPieceMultiplyAdds = 32 * 1024;

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
        quantised_(quantised_ops, *team_),
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

  void linear(ConstMatrixF32 in, const LinearWeight& linear, MatrixF32 out) override {
    if (quantised_in(linear) != nullptr) return unfused(in, {&linear, 1}, {&out, 1});
    const PanelWeight& weight = panels_of(linear);
    assert(in.rows == out.rows && in.cols == weight.cols() && out.cols == weight.rows());
    product_.run(in, {{{&weight}}}, 1, [&](const PanelSums& sums) {
      for (std::size_t i = 0; i < sums.panels; ++i) {
        const std::size_t first = weight.layout().first_out(sums.first_panel + i);
        const std::size_t outs = weight.layout().outs(sums.first_panel + i);
        for (std::size_t row = 0; row < sums.rows; ++row) {
          const float* from = sums.row(row) + i * weight.layout().panel_outs();
          float* to = out.row(sums.first_row + row) + first;
          if (linear.bias == nullptr) {
            std::copy_n(from, outs, to);
          } else {
            ops_.add(from, linear.bias + first, outs, to);
          }
        }
      }
    });
  }

  void swiglu(ConstMatrixF32 in, const LinearWeight& gate, const LinearWeight& up, MatrixF32 out) override {
    if (quantised_in(gate) != nullptr || quantised_in(up) != nullptr) {
      const MatrixF32 gates = room(unfused_, out.rows, out.cols);
      const LinearWeight weights[] = {gate, up};
      const MatrixF32 outs[] = {gates, out};
      unfused(in, weights, outs);
      for_each(out.rows, out.cols, [&](std::size_t row, std::size_t) {
        ops_.silu_multiply(gates.row(row), out.row(row), out.cols, out.row(row));
      });
      return;
    }
    const PanelWeight& weight = panels_of(gate);
    assert(in.rows == out.rows && in.cols == weight.cols() && out.cols == weight.rows());
    assert(panels_of(up).rows() == weight.rows() && panels_of(up).cols() == weight.cols());
    assert(panels_of(up).layout().panel_outs() == weight.layout().panel_outs());
    product_.run(in, {{{&weight, &panels_of(up)}}}, 1, [&](const PanelSums& sums) {
      for (std::size_t i = 0; i < sums.panels; ++i) {
        const std::size_t first = weight.layout().first_out(sums.first_panel + i);
        const std::size_t outs = weight.layout().outs(sums.first_panel + i);
        for (std::size_t row = 0; row < sums.rows; ++row) {
          float* gates = sums.row(row) + i * weight.layout().panel_outs();
          float* ups = sums.second_row(row) + i * weight.layout().panel_outs();
          if (gate.bias != nullptr) ops_.add(gates, gate.bias + first, outs, gates);
          if (up.bias != nullptr) ops_.add(ups, up.bias + first, outs, ups);
          ops_.silu_multiply(gates, ups, outs, out.row(sums.first_row + row) + first);
        }
      }
    });
  }

  void project_qkv(ConstMatrixF32 in, const QkvWeights& weights, const Rotary& rotary, MatrixF32 queries,
                   const PagedKv& kv) override {
    assert(queries.rows == in.rows && step().slots.size() == in.rows && step().positions.size() == in.rows);
    assert(2 * rotary.inverse_frequencies.size() <= kv.head_dim && is_page_type(kv.dtype));
    prepare_angles(rotary);
    const LinearWeight linears[] = {weights.query, weights.key, weights.value};
    if (std::ranges::any_of(linears, [](const LinearWeight& part) { return quantised_in(part) != nullptr; })) {
      const std::size_t of_kv = weights.key.weight->rows();
      const std::size_t of_queries = weights.query.weight->rows();
      const MatrixF32 all = room(unfused_, in.rows, of_queries + 2 * of_kv);
      const MatrixF32 projected[] = {columns(all, 0, of_queries), columns(all, of_queries, of_kv),
                                     columns(all, of_queries + of_kv, of_kv)};
      unfused(in, linears, projected);
      for_each(in.rows, all.cols, [&](std::size_t row, std::size_t) {
        for (std::size_t part = 0; part < std::size(projected); ++part) {
          for (std::size_t head = 0; head * kv.head_dim < projected[part].cols; ++head) {
            float* values = projected[part].row(row) + head * kv.head_dim;
            finish_head(weights, rotary, part, head, row, values, queries, kv);
          }
        }
      });
      return;
    }
    const std::size_t panels_per_head = panels_of(weights.query).layout().panels_per_group();
    product_.run(in, {{{&panels_of(weights.query)}, {&panels_of(weights.key)}, {&panels_of(weights.value)}}},
                 panels_per_head, [&](const PanelSums& sums) {
                   const std::size_t padded_head = panels_per_head * panels_of(weights.query).layout().panel_outs();
                   const float* bias = linears[sums.part].bias;
                   for (std::size_t i = 0; i < sums.panels / panels_per_head; ++i) {
                     const std::size_t head = sums.first_panel / panels_per_head + i;
                     for (std::size_t row = 0; row < sums.rows; ++row) {
                       float* values = sums.row(row) + i * padded_head;
                       if (bias != nullptr) ops_.add(values, bias + head * kv.head_dim, kv.head_dim, values);
                       finish_head(weights, rotary, sums.part, head, sums.first_row + row, values, queries, kv);
                     }
                   }
                 });
  }

  void embed(const WeightView& table, std::uint32_t first_row, MatrixF32 out) override {
    const std::span<const std::uint32_t> tokens = step().tokens;
    assert(out.rows == tokens.size() && out.cols == table.cols);
    assert(is_float_storage(table.dtype) || is_quantised(table.dtype));
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
    for_each(in.rows, in.cols, [&](std::size_t row, std::size_t) {
      ops_.rms_norm(in.row(row), weight.data(), weight.size(), eps, out.row(row));
    });
  }

  void add_rms_norm(ConstMatrixF32 addend, MatrixF32 sum, std::span<const float> weight, float eps,
                    MatrixF32 out) override {
    assert(addend.rows == sum.rows && addend.cols == sum.cols && out.rows == sum.rows && out.cols == sum.cols);
    for_each(sum.rows, 2 * sum.cols, [&](std::size_t row, std::size_t) {
      ops_.add(sum.row(row), addend.row(row), sum.cols, sum.row(row));
      ops_.rms_norm(sum.row(row), weight.data(), weight.size(), eps, out.row(row));
    });
  }

  void attention(ConstMatrixF32 queries, const PagedKv& kv, std::size_t shape, MatrixF32 out) override {
    attention_.run(queries, kv, step().attention, step().shapes[shape], out);
  }

  void add(ConstMatrixF32 addend, MatrixF32 sum) override {
    assert(addend.rows == sum.rows && addend.cols == sum.cols);
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

  static const QuantisedPanels* quantised_in(const LinearWeight& linear) {
    return dynamic_cast<const QuantisedPanels*>(linear.weight);
  }

  // Products with the same inputs, at least one weight being quantised.
  void unfused(ConstMatrixF32 in, std::span<const LinearWeight> weights, std::span<const MatrixF32> outs) {
    std::array<QuantisedLinear::Product, QuantisedLinear::kMostProducts> products;
    assert(weights.size() <= products.size() && weights.size() == outs.size());
    std::size_t count = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      if (const auto* quantised = quantised_in(weights[i])) {
        products[count++] = {quantised, weights[i].bias, outs[i]};
      } else {
        linear(in, weights[i], outs[i]);
      }
    }
    quantised_.run(in, std::span(products).first(count));
  }

  // (rows, cols), until the next call.
  static MatrixF32 room(std::vector<float>& memory, std::size_t rows, std::size_t cols) {
    if (memory.size() < rows * cols) memory.resize(rows * cols);
    return {memory.data(), rows, cols};
  }

  static MatrixF32 columns(const MatrixF32& from, std::size_t first, std::size_t count) {
    return {from.data + first, from.rows, count, from.row_stride};
  }

  static const PanelWeight& panels_of(const LinearWeight& linear) {
    assert(dynamic_cast<const PanelWeight*>(linear.weight) != nullptr);
    return static_cast<const PanelWeight&>(*linear.weight);
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
  QuantisedLinear quantised_;
  PagedAttention attention_;
  std::vector<float> unfused_;  // what quantised weights yield, before the rest of a fused operation

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
