#include "kernels/cpu/reference.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/half.h"
#include "kernels/cpu/kv_slots.h"
#include "kernels/quant.h"

namespace troupe::kernels {
namespace {

// A weight in its storage type, or, of a quantised one, the floats that it stands for.
class ReferenceWeight : public PackedWeight {
 public:
  explicit ReferenceWeight(const WeightView& view)
      : dtype_(is_quantised(view.dtype) ? DType::kF32 : view.dtype), rows_(view.rows), cols_(view.cols) {
    if (is_quantised(view.dtype)) {
      data_.resize(rows_ * cols_ * sizeof(float));
      std::vector<float> values(cols_);
      for (std::size_t row = 0; row < rows_; ++row) {
        dequantize_row(view, row, values.data());
        std::copy_n(reinterpret_cast<const char*>(values.data()), cols_ * sizeof(float),
                    data_.data() + row * cols_ * sizeof(float));
      }
      return;
    }
    assert(is_float_storage(view.dtype));
    const std::size_t row_bytes = cols_ * size_of(dtype_);
    data_.resize(rows_ * row_bytes);
    for (std::size_t row = 0; row < rows_; ++row) {
      const auto* source = static_cast<const char*>(view.data) + row * view.row_stride * size_of(dtype_);
      std::copy_n(source, row_bytes, data_.data() + row * row_bytes);
    }
  }

  std::size_t rows() const override { return rows_; }
  std::size_t cols() const override { return cols_; }
  std::size_t bytes() const override { return data_.size(); }

  float at(std::size_t row, std::size_t col) const { return load_as_f32(data_.data(), dtype_, row * cols_ + col); }

 private:
  DType dtype_;
  std::size_t rows_;
  std::size_t cols_;
  std::vector<char> data_;  // (rows, cols) of dtype_
};

class ReferenceKernels : public CpuKernels {
 public:
  std::string_view name() const override { return "reference"; }

  Result<std::unique_ptr<PackedWeight>> pack(const WeightView& weight, [[maybe_unused]] std::size_t group,
                                             std::span<const std::byte>, void*) override {
    assert(group == 0 || weight.rows % group == 0);
    return std::unique_ptr<PackedWeight>(std::make_unique<ReferenceWeight>(weight));
  }

  void linear(ConstMatrixF32 in, const LinearWeight& linear, MatrixF32 out) override {
    assert(dynamic_cast<const ReferenceWeight*>(linear.weight) != nullptr);
    const auto& weight = static_cast<const ReferenceWeight&>(*linear.weight);
    assert(in.rows == out.rows && in.cols == weight.cols() && out.cols == weight.rows());
    for (std::size_t row = 0; row < in.rows; ++row) {
      for (std::size_t feature = 0; feature < out.cols; ++feature) {
        double sum = 0;
        for (std::size_t col = 0; col < in.cols; ++col) sum += double{in.row(row)[col]} * weight.at(feature, col);
        if (linear.bias != nullptr) sum += linear.bias[feature];
        out.row(row)[feature] = static_cast<float>(sum);
      }
    }
  }

  void swiglu(ConstMatrixF32 in, const LinearWeight& gate, const LinearWeight& up, MatrixF32 out) override {
    const MatrixF32 gates = matrix(first_, out.rows, out.cols);
    linear(in, gate, gates);
    linear(in, up, out);
    for (std::size_t row = 0; row < out.rows; ++row) {
      for (std::size_t col = 0; col < out.cols; ++col) {
        const double x = gates.row(row)[col];
        out.row(row)[col] = static_cast<float>(x / (1 + std::exp(-x)) * out.row(row)[col]);
      }
    }
  }

  void project_qkv(ConstMatrixF32 in, const QkvWeights& weights, const Rotary& rotary, MatrixF32 queries,
                   const PagedKv& kv) override {
    const std::size_t width = kv.num_kv_heads * kv.head_dim;
    const MatrixF32 keys = matrix(first_, in.rows, width);
    const MatrixF32 values = matrix(second_, in.rows, width);
    linear(in, weights.query, queries);
    linear(in, weights.key, keys);
    linear(in, weights.value, values);
    norm_heads(queries, weights.query_norm, weights.eps);
    norm_heads(keys, weights.key_norm, weights.eps);
    rotate(queries, kv.head_dim, rotary, step().positions);
    rotate(keys, kv.head_dim, rotary, step().positions);
    write_kv(keys, values, step().slots, kv);
  }

  void embed(const WeightView& table, std::uint32_t first_row, MatrixF32 out) override {
    const std::span<const std::uint32_t> tokens = step().tokens;
    assert(out.rows == tokens.size() && out.cols == table.cols);
    assert(is_float_storage(table.dtype) || is_quantised(table.dtype));
    for (std::size_t row = 0; row < tokens.size(); ++row) {
      const bool held = tokens[row] >= first_row && tokens[row] - first_row < table.rows;
      if (held && is_quantised(table.dtype)) {
        dequantize_row(table, tokens[row] - first_row, out.row(row));
        continue;
      }
      for (std::size_t col = 0; col < out.cols; ++col) {
        const std::size_t index = held ? (tokens[row] - first_row) * table.row_stride + col : 0;
        out.row(row)[col] = held ? load_as_f32(table.data, table.dtype, index) : 0.0f;
      }
    }
  }

  void rms_norm(ConstMatrixF32 in, std::span<const float> weight, float eps, MatrixF32 out) override {
    assert(in.rows == out.rows && in.cols == out.cols && weight.size() == in.cols);
    for (std::size_t row = 0; row < in.rows; ++row) norm(in.row(row), weight, eps, out.row(row));
  }

  void add_rms_norm(ConstMatrixF32 addend, MatrixF32 sum, std::span<const float> weight, float eps,
                    MatrixF32 out) override {
    add(addend, sum);
    rms_norm(sum, weight, eps, out);
  }

  void attention(ConstMatrixF32 queries, const PagedKv& kv, std::size_t shape_index, MatrixF32 out) override {
    const AttentionBatch& batch = step().attention;
    const AttentionShape& shape = step().shapes[shape_index];
    assert(queries.cols == shape.num_heads * shape.head_dim && out.cols == queries.cols && out.rows == queries.rows);
    assert(shape.num_heads % shape.num_kv_heads == 0);
    assert(kv.num_kv_heads == shape.num_kv_heads && kv.head_dim == shape.head_dim);
    for (std::size_t sequence = 0; sequence < batch.context_lengths.size(); ++sequence) {
      const std::size_t first_row = batch.row_starts[sequence];
      const std::size_t end_row = batch.row_starts[sequence + 1];
      const auto blocks = batch.block_tables.subspan(batch.block_table_starts[sequence]);
      for (std::size_t row = first_row; row < end_row; ++row) {
        const std::size_t end = batch.context_lengths[sequence] - (end_row - 1 - row);
        for (std::size_t head = 0; head < shape.num_heads; ++head) {
          attend(queries.row(row) + head * shape.head_dim, kv, blocks, shape, head, end,
                 out.row(row) + head * shape.head_dim);
        }
      }
    }
  }

  void add(ConstMatrixF32 addend, MatrixF32 sum) override {
    assert(addend.rows == sum.rows && addend.cols == sum.cols);
    for (std::size_t row = 0; row < sum.rows; ++row) {
      for (std::size_t col = 0; col < sum.cols; ++col) sum.row(row)[col] += addend.row(row)[col];
    }
  }

 private:
  static MatrixF32 matrix(std::vector<float>& memory, std::size_t rows, std::size_t cols) {
    memory.resize(rows * cols);
    return {memory.data(), rows, cols};
  }

  // In place; nothing where there is no weight.
  static void norm_heads(MatrixF32 heads, std::span<const float> weight, float eps) {
    if (weight.empty()) return;
    assert(heads.cols % weight.size() == 0);
    for (std::size_t row = 0; row < heads.rows; ++row) {
      for (std::size_t first = 0; first < heads.cols; first += weight.size()) {
        norm(heads.row(row) + first, weight, eps, heads.row(row) + first);
      }
    }
  }

  static void rotate(MatrixF32 heads, std::size_t head_dim, const Rotary& rotary,
                     std::span<const std::uint32_t> positions) {
    const std::size_t pairs = rotary.inverse_frequencies.size();
    assert(positions.size() == heads.rows && heads.cols % head_dim == 0 && 2 * pairs <= head_dim);
    const bool halves = rotary.layout == RopeLayout::kHalves;
    for (std::size_t row = 0; row < heads.rows; ++row) {
      for (std::size_t first = 0; first < heads.cols; first += head_dim) {
        float* head = heads.row(row) + first;
        for (std::size_t pair = 0; pair < pairs; ++pair) {
          const double angle = double(positions[row]) * rotary.inverse_frequencies[pair];
          const double cosine = std::cos(angle) * rotary.magnitude;
          const double sine = std::sin(angle) * rotary.magnitude;
          float& x = head[halves ? pair : 2 * pair];
          float& y = head[halves ? pair + pairs : 2 * pair + 1];
          const double rotated_x = x * cosine - y * sine;
          y = static_cast<float>(y * cosine + x * sine);
          x = static_cast<float>(rotated_x);
        }
      }
    }
  }

  static void write_kv(ConstMatrixF32 keys, ConstMatrixF32 values, std::span<const std::uint32_t> slots,
                       const PagedKv& kv) {
    assert(keys.rows == slots.size() && values.rows == slots.size() && is_page_type(kv.dtype));
    assert(keys.cols == kv.num_kv_heads * kv.head_dim && values.cols == keys.cols);
    for (std::size_t row = 0; row < slots.size(); ++row) {
      assert(slots[row] < kv.num_blocks * kv.block_size);
      for (std::size_t head = 0; head < kv.num_kv_heads; ++head) {
        store_key(keys.row(row) + head * kv.head_dim, kv, slots[row], head);
        store_value(values.row(row) + head * kv.head_dim, kv, slots[row], head);
      }
    }
  }

  static void norm(const float* in, std::span<const float> weight, float eps, float* out) {
    double squares = 0;
    for (std::size_t col = 0; col < weight.size(); ++col) squares += double{in[col]} * in[col];
    const double factor = 1 / std::sqrt(squares / double(weight.size()) + eps);
    for (std::size_t col = 0; col < weight.size(); ++col) out[col] = static_cast<float>(in[col] * factor * weight[col]);
  }

  // One query that sees positions [.., end) of one sequence.
  void attend(const float* query, const PagedKv& kv, std::span<const std::uint32_t> blocks, const AttentionShape& shape,
              std::size_t head, std::size_t end, float* out) {
    const bool windowed = shape.sliding_window != 0 && end > shape.sliding_window;
    const std::size_t begin = windowed ? end - shape.sliding_window : 0;
    const std::size_t kv_head = head / (shape.num_heads / shape.num_kv_heads);
    const auto slot_of = [&](std::size_t position) {
      return blocks[position / kv.block_size] * kv.block_size + position % kv.block_size;
    };

    probabilities_.resize(end - begin);
    double highest = -INFINITY;
    for (std::size_t position = begin; position < end; ++position) {
      double score = 0;
      for (std::size_t i = 0; i < kv.head_dim; ++i) {
        score += double{query[i]} * load_key(kv, slot_of(position), kv_head, i);
      }
      probabilities_[position - begin] = score * shape.scale;
      highest = std::max(highest, score * shape.scale);
    }
    double sum = 0;
    for (double& probability : probabilities_) sum += probability = std::exp(probability - highest);

    for (std::size_t i = 0; i < kv.head_dim; ++i) {
      double value = 0;
      for (std::size_t position = begin; position < end; ++position) {
        value += probabilities_[position - begin] * load_value(kv, slot_of(position), kv_head, i);
      }
      out[i] = static_cast<float>(value / sum);
    }
  }

  std::vector<float> first_;           // of the operation at hand
  std::vector<float> second_;          // of the operation at hand
  std::vector<double> probabilities_;  // (visible positions) of the query at hand
};

}  // namespace

std::unique_ptr<Kernels> make_reference_kernels() { return std::make_unique<ReferenceKernels>(); }

}  // namespace troupe::kernels
