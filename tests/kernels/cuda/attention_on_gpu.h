#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "kernels/cuda/attention_pieces.h"
#include "kernels/cuda/attention_plan.h"
#include "tests/kernels/cuda/devices.h"

namespace troupe::kernels {

// With so few multiprocessors no item is cut into pieces; with so many, all that can be.
constexpr int kFew = 0;
constexpr int kMany = 1'000'000;

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

// What attention over a batch is to do, on a GPU.
class WorkOnGpu {
 public:
  // queries, out: in the host's memory, and outlive this.
  WorkOnGpu(Gpu& gpu, const AttentionBatch& batch, const AttentionShape& shape, const AttentionTiles& tiles,
            int multiprocessors, MatrixF32 queries, std::size_t value_dim, MatrixF32 out)
      : shape_(shape),
        wide_lines_(tiles.wide_lines),
        plan_(plan_of(batch, shape, tiles, multiprocessors)),
        queries_(gpu, queries),
        out_(gpu, out),
        tables_(gpu, batch.block_tables),
        wide_(gpu, plan_.wide),
        narrow_(gpu, plan_.narrow),
        merges_(gpu, plan_.merges),
        pieces_(gpu, std::vector<float>(plan_.piece_rows * attention_piece_floats(shape.num_heads, value_dim))) {}

  AttentionWork work() const {
    return {.queries = queries_.view(),
            .shape = shape_,
            .block_tables = tables_.data(),
            .lists = {.wide = {wide_.data(), plan_.wide.size()},
                      .wide_lines = wide_lines_,
                      .narrow = {narrow_.data(), plan_.narrow.size()},
                      .merges = {merges_.data(), plan_.merges.size()}},
            .pieces = pieces_.data(),
            .out = out_.view()};
  }

  // The result, to where it is wanted.
  void fetch() const { out_.fetch(); }

  static AttentionPlan plan_of(const AttentionBatch& batch, const AttentionShape& shape, const AttentionTiles& tiles,
                               int multiprocessors) {
    AttentionPlan plan;
    plan_attention(batch, shape, tiles, multiprocessors, plan);
    return plan;
  }

 private:
  const AttentionShape shape_;
  const std::size_t wide_lines_;
  const AttentionPlan plan_;
  const MatrixOnGpu queries_, out_;
  const OnGpu<std::uint32_t> tables_;
  const OnGpu<AttentionItem> wide_, narrow_;
  const OnGpu<AttentionMerge> merges_;
  const OnGpu<float> pieces_;
};

}  // namespace troupe::kernels
