#pragma once

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>

#include "tests/kernels/implementations.h"

namespace troupe::kernels {

// One layer's pages and a batch of sequences over them, whose blocks lie scattered.
struct Scene {
  Scene(std::uint32_t seed, DType dtype, float scale_of_queries = 1) : random(seed) {
    const std::size_t head_dims[] = {4, 8, 15, 16, 20, 33, 64, 80, 96, 128, 160, 256};
    shape.head_dim = head_dims[random.pick(0, std::size(head_dims) - 1)];
    shape.num_kv_heads = random.pick(1, 3);
    shape.num_heads = shape.num_kv_heads * random.pick(1, seed % 7 == 0 ? 20 : 5);
    shape.scale = 1 / std::sqrt(float(shape.head_dim));
    shape.sliding_window = random.pick(0, 2) == 0 ? random.pick(1, seed % 2 == 0 ? 40 : 800) : 0;
    const std::size_t block_size = seed % 5 == 0 ? 200 : seed % 3 == 0 ? 16 : random.pick(1, 20);

    row_starts = {0};
    block_table_starts = {0};
    for (std::size_t sequence = random.pick(1, 4); sequence > 0; --sequence) {
      const std::size_t context = random.pick(1, seed % 6 == 1 ? 1700 : 150);
      const std::size_t rows =
          random.pick(0, 1) == 0 ? 1 : random.pick(1, std::min<std::size_t>(context, 150));  // decode or prefill
      context_lengths.push_back(static_cast<std::uint32_t>(context));
      row_starts.push_back(row_starts.back() + static_cast<std::uint32_t>(rows));
      for (std::size_t block = 0; block * block_size < context; ++block) {
        block_tables.push_back(static_cast<std::uint32_t>(block_tables.size()));
      }
      block_table_starts.push_back(static_cast<std::uint32_t>(block_tables.size()));
    }
    for (std::size_t i = block_tables.size() - 1; i > 0; --i)
      std::swap(block_tables[i], block_tables[random.pick(0, i)]);
    pages.emplace(dtype, block_tables.size(), block_size, shape.num_kv_heads, shape.head_dim);
    kv = pages->view();
    for (std::size_t slot = 0; slot < kv.slots(); ++slot) {
      for (std::size_t head = 0; head < kv.num_kv_heads; ++head) {
        store_key(random.normals(kv.head_dim).data(), kv, slot, head);
        store_value(random.normals(kv.head_dim).data(), kv, slot, head);
      }
    }
    queries.emplace(rows(), shape.num_heads * shape.head_dim, 3, random, scale_of_queries);
  }
  Scene(const Scene&) = delete;
  Scene& operator=(const Scene&) = delete;

  std::size_t rows() const { return row_starts.back(); }
  AttentionBatch batch() const { return {row_starts, context_lengths, block_tables, block_table_starts}; }
  Strided attend(Kernels& kernels) {
    Strided out(rows(), queries->view().cols, 2);
    kernels.begin_step({.attention = batch(), .shapes = {&shape, 1}});
    kernels.attention(queries->view(), kv, 0, out.view());
    return out;
  }
  std::size_t slot_of(std::size_t sequence, std::size_t position) const {
    const std::size_t block = block_tables[block_table_starts[sequence] + position / kv.block_size];
    return block * kv.block_size + position % kv.block_size;
  }
  float key(std::size_t sequence, std::size_t position, std::size_t kv_head, std::size_t i) const {
    return load_key(kv, slot_of(sequence, position), kv_head, i);
  }
  float value(std::size_t sequence, std::size_t position, std::size_t kv_head, std::size_t i) const {
    return load_value(kv, slot_of(sequence, position), kv_head, i);
  }

  Random random;
  AttentionShape shape;
  std::optional<Pages> pages;
  PagedKv kv;
  std::vector<std::uint32_t> row_starts, context_lengths, block_tables, block_table_starts;
  std::optional<Strided> queries;
};

// softmax(scale * Q K^T + mask) V as the textbook has it, one sequence and head at a time, over the whole matrix.
inline Strided dense_attention(const Scene& scene) {
  const auto& shape = scene.shape;
  Strided out(scene.rows(), shape.num_heads * shape.head_dim, 0);
  for (std::size_t sequence = 0; sequence < scene.context_lengths.size(); ++sequence) {
    const std::size_t context = scene.context_lengths[sequence];
    const std::size_t rows = scene.row_starts[sequence + 1] - scene.row_starts[sequence];
    for (std::size_t head = 0; head < shape.num_heads; ++head) {
      const std::size_t kv_head = head * shape.num_kv_heads / shape.num_heads;
      for (std::size_t i = 0; i < rows; ++i) {
        const std::size_t row = scene.row_starts[sequence] + i;
        const std::size_t position = context - rows + i;
        std::vector<double> scores(context, -INFINITY);
        for (std::size_t other = 0; other < context; ++other) {
          if (other > position) continue;
          if (shape.sliding_window != 0 && position - other >= shape.sliding_window) continue;
          scores[other] = 0;
          for (std::size_t d = 0; d < shape.head_dim; ++d) {
            scores[other] += double{scene.queries->at(row, head * shape.head_dim + d)} *
                             scene.key(sequence, other, kv_head, d) * shape.scale;
          }
        }
        const double highest = *std::ranges::max_element(scores);
        for (double& score : scores) score = std::exp(score - highest);
        const double sum = std::accumulate(scores.begin(), scores.end(), 0.0);
        for (std::size_t d = 0; d < shape.head_dim; ++d) {
          double value = 0;
          for (std::size_t other = 0; other < context; ++other) {
            value += scores[other] / sum * scene.value(sequence, other, kv_head, d);
          }
          out.view().row(row)[head * shape.head_dim + d] = static_cast<float>(value);
        }
      }
    }
  }
  return out;
}

}  // namespace troupe::kernels
