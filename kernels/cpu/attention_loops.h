// VectorOps::attend and combine over a vector type V (see vector_loops.h).

#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/vector_access.h"

namespace troupe::kernels {
namespace {

// Positions whose scores are held at once; stretches are whole chunks.
constexpr std::size_t kAttendChunk = 64;
static_assert(kAttendStretch % kAttendChunk == 0);

// Queries that go through a chunk together, sharing each load of a value; of keys, half as many share more loads.
constexpr std::size_t kAttendTogether = 8;
constexpr std::size_t kScoreTogether = 4;

// Some queries that see the same positions [begin, end) of one chunk.
struct AttendGroup {
  const float* queries[kAttendTogether];
  float* scores[kAttendTogether];  // (kAttendChunk) each
  float* values[kAttendTogether];  // (head_dim) each
  float corrections[kAttendTogether];
  std::size_t chunk = 0;  // the position of scores[.][0]
  std::size_t begin = 0;
  std::size_t end = 0;
};

// Calls loop(position, block id * num_kv_heads + kv_head, offset in the block, count) for the parts of blocks that
// [begin, end) covers.
template <class Loop>
void for_each_block(const AttendCall& call, std::size_t begin, std::size_t end, const Loop& loop) {
  while (begin < end) {
    const std::size_t offset = begin % call.block_size;
    const std::size_t left = call.block_size - offset;
    const std::size_t count = left < end - begin ? left : end - begin;
    loop(begin, call.block_table[begin / call.block_size] * call.num_kv_heads + call.kv_head, offset, count);
    begin += count;
  }
}

// A vector of positions within one page.
struct KeyVector {
  std::size_t first = 0;   // element 0 of the head: index into the keys
  std::size_t scales = 0;  // index into the scales
  std::size_t score = 0;   // index into the scores of a chunk
};

// Scores of queries [query, query + kQueries) of the group, each a sum over the elements of the head in order, for
// kVectors of positions; of the last vector for `lanes` positions.
template <class V, DType D, std::size_t kQueries, std::size_t kVectors>
void score_vectors(const AttendCall& call, const AttendGroup& group, std::size_t query, const KeyVector* vectors,
                   std::size_t lanes) {
  typename V::Reg sums[kQueries][kVectors];
#pragma GCC unroll 4
  for (auto& of_query : sums) {
#pragma GCC unroll 4
    for (auto& sum : of_query) sum = V::set(0.0f);
  }
  std::size_t index = 0;
  for (std::size_t element = 0; element < call.head_dim; ++element, index += call.block_size) {
    typename V::Reg keys[kVectors];
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) {
      keys[v] = kVectors > 1 || lanes == V::kWidth ? load<V, D>(call.keys, vectors[v].first + index)
                                                   : load_some<V, D>(call.keys, vectors[v].first + index, lanes);
    }
#pragma GCC unroll 4
    for (std::size_t q = 0; q < kQueries; ++q) {
      const auto factor = V::set(group.queries[query + q][element]);
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) sums[q][v] = V::fma(factor, keys[v], sums[q][v]);
    }
  }
#pragma GCC unroll 4
  for (std::size_t v = 0; v < kVectors; ++v) {
    auto scale = V::set(call.scale);
    if constexpr (has_page_scales(D)) {
      scale = V::mul(scale, load_f32<V>(call.key_scales + vectors[v].scales, kVectors > 1 ? V::kWidth : lanes));
    }
#pragma GCC unroll 4
    for (std::size_t q = 0; q < kQueries; ++q) {
      store_f32<V>(group.scores[query + q] + vectors[v].score, V::mul(sums[q][v], scale),
                   kVectors > 1 ? V::kWidth : lanes);
    }
  }
}

// Several vectors of positions share each load of a query's element, as queries share those of keys.
template <class V, DType D, std::size_t kQueries>
void score_keys(const AttendCall& call, const AttendGroup& group, std::size_t query) {
  constexpr std::size_t kVectors = V::kScoreVectors;
  KeyVector vectors[kVectors];
  std::size_t count = 0;
  for_each_block(call, group.begin, group.end,
                 [&](std::size_t position, std::size_t page, std::size_t offset, std::size_t size) {
                   for_each_vector<V>(size, [&](std::size_t i, std::size_t lanes) {
                     KeyVector& next = vectors[count];
                     next.first = page * call.head_dim * call.block_size + offset + i;
                     next.scales = page * call.block_size + offset + i;
                     next.score = position - group.chunk + i;
                     if (lanes < V::kWidth) {
                       score_vectors<V, D, kQueries, 1>(call, group, query, &next, lanes);
                     } else if (++count == kVectors) {
                       score_vectors<V, D, kQueries, kVectors>(call, group, query, vectors, V::kWidth);
                       count = 0;
                     }
                   });
                 });
  for (std::size_t i = 0; i < count; ++i) {
    score_vectors<V, D, kQueries, 1>(call, group, query, vectors + i, V::kWidth);
  }
}

// values = values * correction + sum over positions, in order, of probability * value; kVectors of each query. Within
// a larger function GCC keeps some of the sums in memory.
template <class V, DType D, std::size_t kQueries, std::size_t kVectors>
[[gnu::noinline]] void add_values_at(const AttendCall& call, const AttendGroup& group, std::size_t element,
                                     std::size_t last_lanes) {
  constexpr std::size_t kWidth = V::kWidth;
  typename V::Reg sums[kQueries][kVectors];
#pragma GCC unroll 8
  for (std::size_t q = 0; q < kQueries; ++q) {
#pragma GCC unroll 2
    for (std::size_t v = 0; v < kVectors; ++v) {
      const std::size_t lanes = v + 1 == kVectors ? last_lanes : kWidth;
      sums[q][v] = V::mul(load_f32<V>(group.values[q] + element + v * kWidth, lanes), V::set(group.corrections[q]));
    }
  }
  for_each_block(call, group.begin, group.end,
                 [&](std::size_t position, std::size_t page, std::size_t offset, std::size_t count) {
                   std::size_t index = (page * call.block_size + offset) * call.head_dim + element;
                   for (std::size_t t = position - group.chunk; count > 0; ++t, --count, index += call.head_dim) {
                     typename V::Reg values[kVectors];
#pragma GCC unroll 2
                     for (std::size_t v = 0; v < kVectors; ++v) {
                       values[v] = v + 1 < kVectors || last_lanes == kWidth
                                       ? load<V, D>(call.values, index + v * kWidth)
                                       : load_some<V, D>(call.values, index + v * kWidth, last_lanes);
                     }
#pragma GCC unroll 8
                     for (std::size_t q = 0; q < kQueries; ++q) {
                       const auto probability = V::set(group.scores[q][t]);
#pragma GCC unroll 2
                       for (std::size_t v = 0; v < kVectors; ++v)
                         sums[q][v] = V::fma(probability, values[v], sums[q][v]);
                     }
                   }
                 });
#pragma GCC unroll 8
  for (std::size_t q = 0; q < kQueries; ++q) {
#pragma GCC unroll 2
    for (std::size_t v = 0; v < kVectors; ++v) {
      store_f32<V>(group.values[q] + element + v * kWidth, sums[q][v], v + 1 == kVectors ? last_lanes : kWidth);
    }
  }
}

template <class V, DType D, std::size_t kQueries>
void add_values(const AttendCall& call, const AttendGroup& group) {
  constexpr std::size_t kVectors = V::kValueVectors;
  std::size_t element = 0;
  for (; element + kVectors * V::kWidth <= call.head_dim; element += kVectors * V::kWidth) {
    add_values_at<V, D, kQueries, kVectors>(call, group, element, V::kWidth);
  }
  for (; element < call.head_dim; element += V::kWidth) {
    const std::size_t left = call.head_dim - element;
    add_values_at<V, D, kQueries, 1>(call, group, element, left < V::kWidth ? left : V::kWidth);
  }
}

template <class V, DType D, std::size_t kQueries>
void score_some(std::size_t queries, const AttendCall& call, const AttendGroup& group, std::size_t query) {
  if constexpr (kQueries > 1) {
    if (queries < kQueries) return score_some<V, D, kQueries - 1>(queries, call, group, query);
  }
  score_keys<V, D, kQueries>(call, group, query);
}

template <class V, DType D, std::size_t kQueries>
void add_some(std::size_t queries, const AttendCall& call, const AttendGroup& group) {
  if constexpr (kQueries > 1) {
    if (queries < kQueries) return add_some<V, D, kQueries - 1>(queries, call, group);
  }
  add_values<V, D, kQueries>(call, group);
}

// Turns a query's scores of one chunk into probabilities, relative to the highest score so far; returns the factor for
// what was added up before.
template <class V>
float soften(float* scores, float& highest, float& sum) {
  auto peaks = V::load(scores);
  for (std::size_t i = V::kWidth; i < kAttendChunk; i += V::kWidth) peaks = V::max(peaks, V::load(scores + i));
  float lanes[V::kWidth];
  V::store(lanes, peaks);
  float peak = highest;
  for (const float lane : lanes) peak = lane > peak ? lane : peak;
  float correction = 1;
  if (peak > highest) correction = sum > 0 ? V::first(exp<V>(V::set(highest - peak))) : 0;
  highest = peak;
  auto chunk_sum = V::set(0.0f);
  for (std::size_t i = 0; i < kAttendChunk; i += V::kWidth) {
    const auto probability = exp<V>(V::sub(V::load(scores + i), V::set(peak)));
    V::store(scores + i, probability);
    chunk_sum = V::add(chunk_sum, probability);
  }
  sum = sum * correction + V::sum(chunk_sum);
  return correction;
}

// Queries [first, first + count) over [begin, end), which lies within one chunk and which all of them see: all scores,
// then all values, so that each of keys and values need only come to the first-level cache once.
template <class V, DType D>
void attend_chunk(const AttendCall& call, const AttendState& state, std::size_t first, std::size_t count,
                  std::size_t begin, std::size_t end) {
  static_assert(kMaxAttendQueries % kAttendTogether == 0);
  alignas(64) float scores[kMaxAttendQueries][kAttendChunk];
  AttendGroup groups[kMaxAttendQueries / kAttendTogether];
  const auto together_at = [&](std::size_t done) {
    return count - done < kAttendTogether ? count - done : kAttendTogether;
  };
  for (std::size_t done = 0; done < count; done += kAttendTogether) {
    AttendGroup& group = groups[done / kAttendTogether];
    group.chunk = begin / kAttendChunk * kAttendChunk;
    group.begin = begin;
    group.end = end;
    const std::size_t together = together_at(done);
    for (std::size_t q = 0; q < together; ++q) {
      const std::size_t query = first + done + q;
      group.queries[q] = call.queries + query / call.heads * call.query_stride + query % call.heads * call.head_dim;
      group.scores[q] = scores[done + q];
      group.values[q] = state.values + query * call.head_dim;
      // Beyond what the queries see: a probability below 2e-38, lost beside the 1 of the highest score.
      if (end - begin < kAttendChunk) {
        for (float& score : scores[done + q]) score = -__builtin_inff();
      }
    }
    for (std::size_t q = 0; q < together; q += kScoreTogether) {
      score_some<V, D, kScoreTogether>(together - q < kScoreTogether ? together - q : kScoreTogether, call, group, q);
    }
    for (std::size_t q = 0; q < together; ++q) {
      const std::size_t query = first + done + q;
      group.corrections[q] = soften<V>(scores[done + q], state.highest[query], state.sums[query]);
    }
  }
  if constexpr (has_page_scales(D)) {
    for_each_block(call, begin, end,
                   [&](std::size_t position, std::size_t page, std::size_t offset, std::size_t parts) {
                     for_each_vector<V>(parts, [&](std::size_t i, std::size_t lanes) {
                       const auto scale = load_f32<V>(call.value_scales + page * call.block_size + offset + i, lanes);
                       for (std::size_t q = 0; q < count; ++q) {
                         float* score = scores[q] + position % kAttendChunk + i;
                         store_f32<V>(score, V::mul(load_f32<V>(score, lanes), scale), lanes);
                       }
                     });
                   });
  }
  for (std::size_t done = 0; done < count; done += kAttendTogether) {
    add_some<V, D, kAttendTogether>(together_at(done), call, groups[done / kAttendTogether]);
  }
}

// Asks for the first lines of the pages of [begin, end); the processor finds the rest of each by itself.
template <DType D>
void prefetch_pages(const AttendCall& call, std::size_t begin, std::size_t end) {
  constexpr std::size_t kLine = 64;
  for_each_block(call, begin, end, [&](std::size_t, std::size_t page, std::size_t, std::size_t) {
    const std::size_t bytes = call.head_dim * call.block_size * size_of(D);
    const std::size_t wanted = bytes < 32 * kLine ? bytes : 32 * kLine;
    for (std::size_t line = 0; line < wanted; line += kLine) {
      __builtin_prefetch(static_cast<const char*>(call.keys) + page * bytes + line);
      __builtin_prefetch(static_cast<const char*>(call.values) + page * bytes + line);
    }
  });
}

template <class V, DType D>
void attend_of(const AttendCall& call, const AttendState& state) {
  const std::size_t queries = call.rows * call.heads;
  for (std::size_t q = 0; q < queries; ++q) {
    state.highest[q] = -__builtin_inff();
    state.sums[q] = 0;
  }
  for (std::size_t i = 0; i < queries * call.head_dim; ++i) state.values[i] = 0;

  const auto begin_of = [&](std::size_t row) {
    const std::size_t end = call.first_end + row;
    return call.window != 0 && end > call.window ? end - call.window : 0;
  };
  const std::size_t last_row = call.rows - 1;
  for (std::size_t begin = call.begin; begin < call.end;) {
    std::size_t end = (begin / kAttendChunk + 1) * kAttendChunk;
    if (end > call.end) end = call.end;
    prefetch_pages<D>(call, end, end + kAttendChunk < call.end ? end + kAttendChunk : call.end);
    if (begin_of(last_row) <= begin && call.first_end >= end) {
      attend_chunk<V, D>(call, state, 0, queries, begin, end);
    } else {
      for (std::size_t row = 0; row < call.rows; ++row) {
        const std::size_t from = begin_of(row) > begin ? begin_of(row) : begin;
        const std::size_t to = call.first_end + row < end ? call.first_end + row : end;
        if (from < to) attend_chunk<V, D>(call, state, row * call.heads, call.heads, from, to);
      }
    }
    begin = end;
  }
}

template <class V>
void attend(const AttendCall& call, const AttendState& state) {
  switch (call.dtype) {
    case DType::kF16: return attend_of<V, DType::kF16>(call, state);
    case DType::kBF16: return attend_of<V, DType::kBF16>(call, state);
    case DType::kI8: return attend_of<V, DType::kI8>(call, state);
    case DType::kE4M3: return attend_of<V, DType::kE4M3>(call, state);
    default: return attend_of<V, DType::kF32>(call, state);
  }
}

template <class V>
void combine(const AttendState& total, const AttendState& further, std::size_t queries, std::size_t head_dim) {
  for (std::size_t q = 0; q < queries; ++q) {
    if (further.sums[q] == 0) continue;
    float mine = 0, others = 1;
    if (total.sums[q] != 0) {
      const float peak = total.highest[q] > further.highest[q] ? total.highest[q] : further.highest[q];
      mine = V::first(exp<V>(V::set(total.highest[q] - peak)));
      others = V::first(exp<V>(V::set(further.highest[q] - peak)));
      total.highest[q] = peak;
    } else {
      total.highest[q] = further.highest[q];
    }
    total.sums[q] = total.sums[q] * mine + further.sums[q] * others;
    float* to = total.values + q * head_dim;
    const float* from = further.values + q * head_dim;
    for_each_vector<V>(head_dim, [&](std::size_t i, std::size_t lanes) {
      const auto scaled = V::mul(load_f32<V>(to + i, lanes), V::set(mine));
      store_f32<V>(to + i, V::fma(load_f32<V>(from + i, lanes), V::set(others), scaled), lanes);
    });
  }
}

}  // namespace
}  // namespace troupe::kernels
