#include "kernels/cpu/reference.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "kernels/cpu/half.h"
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

class ReferenceKernels : public Kernels {
 public:
  std::string_view name() const override { return "reference"; }

  std::unique_ptr<PackedWeight> pack(const WeightView& weight) override {
    return std::make_unique<ReferenceWeight>(weight);
  }

  void linear(ConstMatrixF32 in, const PackedWeight& weight, const float* bias, MatrixF32 out) override {
    assert(dynamic_cast<const ReferenceWeight*>(&weight) != nullptr);
    const auto& reference = static_cast<const ReferenceWeight&>(weight);
    assert(in.rows == out.rows && in.cols == weight.cols() && out.cols == weight.rows());
    for (std::size_t row = 0; row < in.rows; ++row) {
      for (std::size_t feature = 0; feature < out.cols; ++feature) {
        double sum = 0;
        for (std::size_t col = 0; col < in.cols; ++col) sum += double{in.row(row)[col]} * reference.at(feature, col);
        if (bias != nullptr) sum += bias[feature];
        out.row(row)[feature] = static_cast<float>(sum);
      }
    }
  }

  void embed(std::span<const std::uint32_t> tokens, const WeightView& table, std::uint32_t first_row,
             MatrixF32 out) override {
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

  void rms_norm_heads(MatrixF32 heads, std::span<const float> weight, float eps) override {
    assert(heads.cols % weight.size() == 0);
    for (std::size_t row = 0; row < heads.rows; ++row) {
      for (std::size_t first = 0; first < heads.cols; first += weight.size()) {
        norm(heads.row(row) + first, weight, eps, heads.row(row) + first);
      }
    }
  }

  void rope(MatrixF32 heads, std::size_t head_dim, std::span<const std::uint32_t> positions,
            std::span<const float> inverse_frequencies, float magnitude, RopeLayout layout) override {
    const std::size_t pairs = inverse_frequencies.size();
    assert(positions.size() == heads.rows && heads.cols % head_dim == 0 && 2 * pairs <= head_dim);
    const bool halves = layout == RopeLayout::kHalves;
    for (std::size_t row = 0; row < heads.rows; ++row) {
      for (std::size_t first = 0; first < heads.cols; first += head_dim) {
        float* head = heads.row(row) + first;
        for (std::size_t pair = 0; pair < pairs; ++pair) {
          const double angle = double(positions[row]) * inverse_frequencies[pair];
          const double cosine = std::cos(angle) * magnitude;
          const double sine = std::sin(angle) * magnitude;
          float& x = head[halves ? pair : 2 * pair];
          float& y = head[halves ? pair + pairs : 2 * pair + 1];
          const double rotated_x = x * cosine - y * sine;
          y = static_cast<float>(y * cosine + x * sine);
          x = static_cast<float>(rotated_x);
        }
      }
    }
  }

  void write_kv(ConstMatrixF32 keys, ConstMatrixF32 values, std::span<const std::uint32_t> slots,
                const PagedKv& kv) override {
    const std::size_t width = kv.num_kv_heads * kv.head_dim;
    assert(keys.rows == slots.size() && values.rows == slots.size() && is_float_storage(kv.dtype));
    assert(keys.cols == width && values.cols == width);
    for (std::size_t row = 0; row < slots.size(); ++row) {
      assert(slots[row] < kv.num_blocks * kv.block_size);
      for (std::size_t col = 0; col < width; ++col) {
        store_from_f32(keys.row(row)[col], kv.keys, kv.dtype, slots[row] * width + col);
        store_from_f32(values.row(row)[col], kv.values, kv.dtype, slots[row] * width + col);
      }
    }
  }

  void attention(ConstMatrixF32 queries, const PagedKv& kv, const AttentionBatch& batch, const AttentionShape& shape,
                 MatrixF32 out) override {
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

  void silu_multiply(ConstMatrixF32 gate, ConstMatrixF32 up, MatrixF32 out) override {
    assert(gate.rows == out.rows && up.rows == out.rows && gate.cols == out.cols && up.cols == out.cols);
    for (std::size_t row = 0; row < out.rows; ++row) {
      for (std::size_t col = 0; col < out.cols; ++col) {
        const double x = gate.row(row)[col];
        out.row(row)[col] = static_cast<float>(x / (1 + std::exp(-x)) * up.row(row)[col]);
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
    const auto index_of = [&](std::size_t position) {
      const std::size_t slot = blocks[position / kv.block_size] * kv.block_size + position % kv.block_size;
      return (slot * kv.num_kv_heads + kv_head) * kv.head_dim;
    };

    probabilities_.resize(end - begin);
    double highest = -INFINITY;
    for (std::size_t position = begin; position < end; ++position) {
      double score = 0;
      for (std::size_t i = 0; i < kv.head_dim; ++i) {
        score += double{query[i]} * load_as_f32(kv.keys, kv.dtype, index_of(position) + i);
      }
      probabilities_[position - begin] = score * shape.scale;
      highest = std::max(highest, score * shape.scale);
    }
    double sum = 0;
    for (double& probability : probabilities_) sum += probability = std::exp(probability - highest);

    for (std::size_t i = 0; i < kv.head_dim; ++i) {
      double value = 0;
      for (std::size_t position = begin; position < end; ++position) {
        value += probabilities_[position - begin] * load_as_f32(kv.values, kv.dtype, index_of(position) + i);
      }
      out[i] = static_cast<float>(value / sum);
    }
  }

  std::vector<double> probabilities_;  // (visible positions) of the query at hand
};

}  // namespace

std::unique_ptr<Kernels> make_reference_kernels() { return std::make_unique<ReferenceKernels>(); }

}  // namespace troupe::kernels
