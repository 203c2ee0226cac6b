#include "kernels/cpu/vector_kernels.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <vector>

#include "kernels/cpu/half.h"
#include "kernels/cpu/packed_panels.h"
#include "kernels/cpu/quantised_linear.h"

namespace troupe::kernels {
namespace {

// A piece of work below this many multiply-adds is not worth another thread's attention (some microseconds).
constexpr std::size_t kPieceMultiplyAdds = 32 * 1024;

// Input features that one pass of tiles takes: a panel's stretch of them stays in the second-level cache while the
// rows of a block go by, which themselves do so while the panel goes by.
constexpr std::size_t kDepthBlock = 256;
constexpr std::size_t kRowBlock = 48;

std::size_t divide_up(std::size_t value, std::size_t divisor) { return (value + divisor - 1) / divisor; }

class VectorKernels : public Kernels {
 public:
  VectorKernels(std::string_view name, const VectorOps& ops, const QuantisedOps& quantised_ops,
                std::unique_ptr<Team> team)
      : name_(name), ops_(ops), team_(std::move(team)), quantised_(quantised_ops, *team_) {}

  std::string_view name() const override { return name_; }

  std::unique_ptr<PackedWeight> pack(const WeightView& weight) override {
    if (is_quantised(weight.dtype)) return std::make_unique<QuantisedPanels>(weight);
    return std::make_unique<PackedPanels>(weight, ops_);
  }

  void linear(ConstMatrixF32 in, const PackedWeight& weight, const float* bias, MatrixF32 out) override {
    if (const auto* quantised = dynamic_cast<const QuantisedPanels*>(&weight)) {
      return quantised_.run(in, *quantised, bias, out);
    }
    assert(dynamic_cast<const PackedPanels*>(&weight) != nullptr);
    assert(in.rows == out.rows && in.cols == weight.cols() && out.cols == weight.rows());
    const auto& panels = static_cast<const PackedPanels&>(weight);
    const std::size_t row_blocks = divide_up(in.rows, kRowBlock);
    const std::size_t panel_work = std::min(in.rows, kRowBlock) * in.cols * panels.panel_outs();
    for_each(panels.panels() * row_blocks, panel_work, [&](std::size_t index, std::size_t) {
      const std::size_t first = index % row_blocks * kRowBlock;
      const std::size_t count = std::min(kRowBlock, in.rows - first);
      multiply_panel(in.rows_from(first, count), panels, index / row_blocks, bias, out.rows_from(first, count));
    });
  }

  void embed(std::span<const std::uint32_t> tokens, const WeightView& table, std::uint32_t first_row,
             MatrixF32 out) override {
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

  void rms_norm_heads(MatrixF32 heads, std::span<const float> weight, float eps) override {
    assert(heads.cols % weight.size() == 0);
    for_each(heads.rows, heads.cols, [&](std::size_t row, std::size_t) {
      for (float* head = heads.row(row); head != heads.row(row) + heads.cols; head += weight.size()) {
        ops_.rms_norm(head, weight.data(), weight.size(), eps, head);
      }
    });
  }

  void rope(MatrixF32 heads, std::size_t head_dim, std::span<const std::uint32_t> positions,
            std::span<const float> inverse_frequencies, float magnitude, RopeLayout layout) override {
    const std::size_t pairs = inverse_frequencies.size();
    assert(positions.size() == heads.rows && heads.cols % head_dim == 0 && 2 * pairs <= head_dim);
    prepare_angles(positions, inverse_frequencies, magnitude);
    for_each(heads.rows, heads.cols, [&](std::size_t row, std::size_t) {
      const float* cosines = cosines_.data() + row * pairs;
      const float* sines = sines_.data() + row * pairs;
      for (float* head = heads.row(row); head != heads.row(row) + heads.cols; head += head_dim) {
        ops_.rotate(head, pairs, cosines, sines, layout == RopeLayout::kInterleaved);
      }
    });
  }

  void write_kv(ConstMatrixF32 keys, ConstMatrixF32 values, std::span<const std::uint32_t> slots,
                const PagedKv& kv) override {
    const std::size_t width = kv.num_kv_heads * kv.head_dim;
    assert(keys.rows == slots.size() && values.rows == slots.size() && is_float_storage(kv.dtype));
    assert(keys.cols == width && values.cols == width);
    for_each(slots.size(), 2 * width, [&](std::size_t row, std::size_t) {
      assert(slots[row] < kv.num_blocks * kv.block_size);
      const std::size_t offset = slots[row] * width * size_of(kv.dtype);
      ops_.narrow(keys.row(row), kv.dtype, width, static_cast<std::byte*>(kv.keys) + offset);
      ops_.narrow(values.row(row), kv.dtype, width, static_cast<std::byte*>(kv.values) + offset);
    });
  }

  void attention(ConstMatrixF32 queries, const PagedKv& kv, const AttentionBatch& batch, const AttentionShape& shape,
                 MatrixF32 out) override {
    assert(queries.cols == shape.num_heads * shape.head_dim && out.cols == queries.cols && out.rows == queries.rows);
    assert(shape.num_heads % shape.num_kv_heads == 0 && is_float_storage(kv.dtype));
    assert(kv.num_kv_heads == shape.num_kv_heads && kv.head_dim == shape.head_dim);
    const std::size_t positions = find_visible(batch, shape.sliding_window, queries.rows);
    if (queries.rows == 0) return;

    // Heads that share a KV head go together, so that its pages are read once; unless that leaves members idle.
    const std::size_t group = shape.num_heads / shape.num_kv_heads;
    const std::size_t splits = divide_up(team_->size(), queries.rows * shape.num_kv_heads);
    const std::size_t heads_a_call = std::clamp<std::size_t>(group / splits, 1, kMaxQueriesPerCall);
    const std::size_t calls_a_group = divide_up(group, heads_a_call);
    const std::size_t calls = queries.rows * shape.num_kv_heads * calls_a_group;

    for_each(calls, 2 * positions * shape.num_heads * shape.head_dim / calls, [&](std::size_t index, std::size_t) {
      const std::size_t row = index / (shape.num_kv_heads * calls_a_group);
      const std::size_t kv_head = index / calls_a_group % shape.num_kv_heads;
      const std::size_t first = index % calls_a_group * heads_a_call;
      const std::size_t offset = (kv_head * group + first) * shape.head_dim;
      const std::size_t page_offset = kv_head * kv.head_dim * size_of(kv.dtype);
      ops_.attend({
          .queries = queries.row(row) + offset,
          .heads = std::min(heads_a_call, group - first),
          .head_dim = shape.head_dim,
          .dtype = kv.dtype,
          .keys = static_cast<const std::byte*>(kv.keys) + page_offset,
          .values = static_cast<const std::byte*>(kv.values) + page_offset,
          .slot_stride = kv.num_kv_heads * kv.head_dim,
          .block_table = visible_[row].block_table,
          .block_size = kv.block_size,
          .begin = visible_[row].begin,
          .end = visible_[row].end,
          .scale = shape.scale,
          .out = out.row(row) + offset,
      });
    });
  }

  void silu_multiply(ConstMatrixF32 gate, ConstMatrixF32 up, MatrixF32 out) override {
    assert(gate.rows == out.rows && up.rows == out.rows && gate.cols == out.cols && up.cols == out.cols);
    for_each(out.rows, 8 * out.cols, [&](std::size_t row, std::size_t) {
      ops_.silu_multiply(gate.row(row), up.row(row), out.cols, out.row(row));
    });
  }

  void add(ConstMatrixF32 addend, MatrixF32 sum) override {
    assert(addend.rows == sum.rows && addend.cols == sum.cols);
    for_each(sum.rows, sum.cols,
             [&](std::size_t row, std::size_t) { ops_.add(addend.row(row), sum.cols, sum.row(row)); });
  }

 private:
  // What one row of an attention batch sees of its sequence: positions [begin, end).
  struct Visible {
    const std::uint32_t* block_table = nullptr;
    std::size_t begin = 0;
    std::size_t end = 0;
  };

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

  void multiply_panel(ConstMatrixF32 in, const PackedPanels& weight, std::size_t panel, const float* bias,
                      MatrixF32 out) const {
    LinearTile tile;
    tile.in_stride = in.row_stride;
    tile.out_stride = out.row_stride;
    const std::size_t first_out = panel * weight.panel_outs();
    // An input of no features still has a bias (or zeros) to give, hence at least one pass.
    for (std::size_t depth = 0; depth == 0 || depth < in.cols; depth += kDepthBlock) {
      weight.describe(panel, depth, tile);
      tile.depth = std::min(kDepthBlock, in.cols - depth);
      tile.continues = depth != 0;
      const bool last = depth + tile.depth == in.cols;
      tile.bias = last && bias != nullptr ? bias + first_out : nullptr;
      for (std::size_t row = 0; row < in.rows; row += tile.rows) {
        tile.rows = std::min(ops_.tile_rows, in.rows - row);
        tile.in = in.row(row) + depth;
        tile.out = out.row(row) + first_out;
        ops_.linear_tile(weight.dtype(), tile);
      }
    }
  }

  // Fills cosines_ and sines_, (positions, pairs) each. All layers of a step ask for the same, queries and keys alike.
  void prepare_angles(std::span<const std::uint32_t> positions, std::span<const float> frequencies, float magnitude) {
    if (std::ranges::equal(positions, positions_) && std::ranges::equal(frequencies, frequencies_) &&
        magnitude == magnitude_) {
      return;
    }
    positions_.assign(positions.begin(), positions.end());
    frequencies_.assign(frequencies.begin(), frequencies.end());
    magnitude_ = magnitude;
    const std::size_t pairs = frequencies.size();
    cosines_.resize(positions.size() * pairs);
    sines_.resize(positions.size() * pairs);
    for_each(positions.size(), 64 * pairs, [&](std::size_t row, std::size_t) {
      for (std::size_t pair = 0; pair < pairs; ++pair) {
        // In double: at position 100,000 a float32 angle is already off by 0.004.
        const double angle = double(positions[row]) * frequencies[pair];
        cosines_[row * pairs + pair] = static_cast<float>(std::cos(angle) * magnitude);
        sines_[row * pairs + pair] = static_cast<float>(std::sin(angle) * magnitude);
      }
    });
  }

  // Fills visible_, (rows); returns how many positions are visible in all.
  std::size_t find_visible(const AttentionBatch& batch, std::size_t sliding_window, [[maybe_unused]] std::size_t rows) {
    visible_.clear();
    std::size_t positions = 0;
    for (std::size_t sequence = 0; sequence < batch.context_lengths.size(); ++sequence) {
      const std::size_t end_row = batch.row_starts[sequence + 1];
      assert(end_row - batch.row_starts[sequence] <= batch.context_lengths[sequence]);
      for (std::size_t row = batch.row_starts[sequence]; row < end_row; ++row) {
        const std::size_t end = batch.context_lengths[sequence] - (end_row - 1 - row);
        const bool windowed = sliding_window != 0 && end > sliding_window;
        const std::size_t begin = windowed ? end - sliding_window : 0;
        visible_.push_back({batch.block_tables.data() + batch.block_table_starts[sequence], begin, end});
        positions += end - begin;
      }
    }
    assert(visible_.size() == rows);
    return positions;
  }

  std::string_view name_;
  const VectorOps& ops_;
  std::unique_ptr<Team> team_;
  QuantisedLinear quantised_;

  // Of the latest rope call.
  std::vector<std::uint32_t> positions_;
  std::vector<float> frequencies_;
  float magnitude_ = 0;
  std::vector<float> cosines_;  // (positions, frequencies)
  std::vector<float> sines_;    // (positions, frequencies)

  std::vector<Visible> visible_;  // (rows) of the attention call at hand
};

}  // namespace

std::unique_ptr<Kernels> make_vector_kernels(std::string_view name, const VectorOps& ops,
                                             const QuantisedOps& quantised_ops, std::unique_ptr<Team> team) {
  return std::make_unique<VectorKernels>(name, ops, quantised_ops, std::move(team));
}

}  // namespace troupe::kernels
