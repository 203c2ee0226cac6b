#include "kernels/cpu/latent_attention.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <vector>

#include "kernels/cpu/half.h"

namespace troupe::kernels {
namespace {

// One head of one row, which sees the positions whose rows begin at `places` of the pages.
void attend(const float* query, const PagedLatents& pages, const std::vector<std::size_t>& places, double scale,
            std::vector<double>& weights, float* out) {
  weights.clear();
  double highest = -INFINITY;
  for (const std::size_t place : places) {
    double score = 0;
    for (std::size_t i = 0; i < pages.row_size(); ++i) {
      score += double{query[i]} * load_as_f32(pages.tokens, pages.dtype, place + i);
    }
    weights.push_back(score * scale);
    highest = std::max(highest, weights.back());
  }
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - highest);
  for (std::size_t i = 0; i < pages.rank; ++i) {
    double value = 0;
    for (std::size_t position = 0; position < places.size(); ++position) {
      value += weights[position] * load_as_f32(pages.tokens, pages.dtype, places[position] + i);
    }
    out[i] = static_cast<float>(value / sum);
  }
}

}  // namespace

void reference_latent_attention(ConstMatrixF32 queries, const PagedLatents& pages, const AttentionBatch& batch,
                                const AttentionShape& shape, MatrixF32 out) {
  assert(shape.num_kv_heads == 1 && shape.head_dim == pages.row_size() && shape.sliding_window == 0);
  assert(queries.cols == shape.num_heads * shape.head_dim && out.cols == shape.num_heads * pages.rank);
  std::vector<std::size_t> places;
  std::vector<double> weights;
  for (std::size_t sequence = 0; sequence < batch.context_lengths.size(); ++sequence) {
    const std::size_t end_row = batch.row_starts[sequence + 1];
    const auto blocks = batch.block_tables.subspan(batch.block_table_starts[sequence]);
    for (std::size_t row = batch.row_starts[sequence]; row < end_row; ++row) {
      places.clear();
      for (std::size_t i = 0; i < batch.context_lengths[sequence] - (end_row - 1 - row); ++i) {
        const std::size_t slot = blocks[i / pages.block_size] * pages.block_size + i % pages.block_size;
        places.push_back(slot * pages.row_size());
      }
      for (std::size_t head = 0; head < shape.num_heads; ++head) {
        attend(queries.row(row) + head * shape.head_dim, pages, places, shape.scale, weights,
               out.row(row) + head * pages.rank);
      }
    }
  }
}

}  // namespace troupe::kernels
