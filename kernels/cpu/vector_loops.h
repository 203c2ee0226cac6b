// The loops of VectorOps over a vector type V, which the including file defines (kernels/cpu/avx2.cpp says what V
// must offer). Everything here has internal linkage: two instruction sets must not share an instance.

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/vector_ops.h"

namespace troupe::kernels {
namespace {

// `count` elements of a storage type, at `index`, as floats; zeros beyond. count: 1 to width.
template <class V, DType D>
typename V::Reg load_some(const void* data, std::size_t index, std::size_t count) {
  if constexpr (D == DType::kF32) {
    return V::load_some(static_cast<const float*>(data) + index, count);
  } else {
    return V::template widen<D>(V::load_some_halves(static_cast<const std::uint16_t*>(data) + index, count));
  }
}

template <class V, DType D>
typename V::Reg load(const void* data, std::size_t index) {
  if constexpr (D == DType::kF32) {
    return V::load(static_cast<const float*>(data) + index);
  } else {
    return V::template widen<D>(V::load_halves(static_cast<const std::uint16_t*>(data) + index));
  }
}

// Calls loop(index, count) for each vector of `size` elements, count being V::width for all but the last, and a
// constant to the optimiser there.
template <class V, class Loop>
void for_each_vector(std::size_t size, const Loop& loop) {
  std::size_t i = 0;
  for (; i + V::kWidth <= size; i += V::kWidth) loop(i, V::kWidth);
  if (i < size) loop(i, size - i);
}

template <class V>
typename V::Reg load_f32(const float* data, std::size_t count) {
  return count == V::kWidth ? V::load(data) : V::load_some(data, count);
}

template <class V>
void store_f32(float* data, typename V::Reg value, std::size_t count) {
  if (count == V::kWidth) {
    V::store(data, value);
  } else {
    V::store_some(data, value, count);
  }
}

// e^x within 2 ulp for x in [-87, 88], clamped there; a NaN stays one. x = n ln 2 + r, and the Taylor series of e^r
// to the 7th power, whose remainder at |r| <= ln(2) / 2 is below 6e-9.
template <class V>
typename V::Reg exp(typename V::Reg x) {
  x = V::max(V::set(-87.0f), V::min(V::set(88.0f), x));
  const auto n = V::round(V::mul(x, V::set(1.44269504f)));
  // ln 2 in two parts, the first with few enough bits for n times it to be exact.
  auto r = V::fma(n, V::set(-0.693359375f), x);
  r = V::fma(n, V::set(2.12194440e-4f), r);
  auto series = V::set(1.0f / 5040);
  series = V::fma(series, r, V::set(1.0f / 720));
  series = V::fma(series, r, V::set(1.0f / 120));
  series = V::fma(series, r, V::set(1.0f / 24));
  series = V::fma(series, r, V::set(1.0f / 6));
  series = V::fma(series, r, V::set(0.5f));
  series = V::fma(series, r, V::set(1.0f));
  series = V::fma(series, r, V::set(1.0f));
  return V::scale_by_power_of_2(series, n);
}

template <class V, DType D, std::size_t kRows, std::size_t kVectors>
void linear_tile_of(const LinearTile& tile) {
  constexpr std::size_t kWidth = V::kWidth;
  const std::size_t last = tile.outs - (kVectors - 1) * kWidth;  // outputs in the last vector
  const auto outs_of = [&](std::size_t vector) { return vector + 1 == kVectors ? last : kWidth; };

  typename V::Reg sums[kRows][kVectors];
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      sums[r][v] = tile.continues ? load_f32<V>(tile.out + r * tile.out_stride + v * kWidth, outs_of(v)) : V::set(0.0f);
    }
  }
  const float* in = tile.in;
  for (std::size_t k = 0; k < tile.depth; ++k, ++in) {
    // All weights, then one input after the other: the other way round needs a register more than AVX2 has.
    typename V::Reg weights[kVectors];
#pragma GCC unroll 8
    for (std::size_t v = 0; v < kVectors; ++v) weights[v] = load<V, D>(tile.panel, (k * kVectors + v) * kWidth);
#pragma GCC unroll 8
    for (std::size_t r = 0; r < kRows; ++r) {
      const auto x = V::set(in[r * tile.in_stride]);
#pragma GCC unroll 8
      for (std::size_t v = 0; v < kVectors; ++v) sums[r][v] = V::fma(x, weights[v], sums[r][v]);
    }
  }
  for (std::size_t r = 0; r < kRows; ++r) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      auto sum = sums[r][v];
      if (tile.bias != nullptr) sum = V::add(sum, load_f32<V>(tile.bias + v * kWidth, outs_of(v)));
      store_f32<V>(tile.out + r * tile.out_stride + v * kWidth, sum, outs_of(v));
    }
  }
}

template <class V, DType D, std::size_t kRows>
void linear_tile_rows(const LinearTile& tile) {
  if constexpr (kRows > 1) {
    if (tile.rows < kRows) return linear_tile_rows<V, D, kRows - 1>(tile);
  }
  switch (tile.vectors) {
    case 1: return linear_tile_of<V, D, kRows, 1>(tile);
    case 2: return linear_tile_of<V, D, kRows, 2>(tile);
    case 3: return linear_tile_of<V, D, kRows, 3>(tile);
    default:
      if constexpr (V::kPanelVectors > 3) return linear_tile_of<V, D, kRows, 4>(tile);
  }
}

template <class V>
void linear_tile(DType dtype, const LinearTile& tile) {
  static_assert(V::kPanelVectors == 3 || V::kPanelVectors == 4);
  switch (dtype) {
    case DType::kF16: return linear_tile_rows<V, DType::kF16, V::kTileRows>(tile);
    case DType::kBF16: return linear_tile_rows<V, DType::kBF16, V::kTileRows>(tile);
    default: return linear_tile_rows<V, DType::kF32, V::kTileRows>(tile);
  }
}

// Positions whose scores are held at once. A power of two of several vectors.
constexpr std::size_t kAttendChunk = 64;

// scores[t] = scale * <query, key t> for `count` keys that lie `stride` elements apart.
template <class V, DType D>
void score_keys(const float* query, const void* keys, std::size_t first, std::size_t stride, std::size_t count,
                std::size_t head_dim, float scale, float* scores) {
  const std::size_t whole = head_dim - head_dim % V::kWidth;
  const std::size_t rest = head_dim - whole;
  // Four keys at a time hide the latency of the additions and share the work of adding across lanes.
  const auto score = [&]<std::size_t kKeys>(std::size_t t) {
    typename V::Reg sums[4];
    for (auto& sum : sums) sum = V::set(0.0f);
    for (std::size_t i = 0; i < whole; i += V::kWidth) {
      const auto part = V::load(query + i);
#pragma GCC unroll 4
      for (std::size_t j = 0; j < kKeys; ++j) {
        sums[j] = V::fma(part, load<V, D>(keys, first + (t + j) * stride + i), sums[j]);
      }
    }
    if (rest != 0) {
      const auto part = V::load_some(query + whole, rest);
      for (std::size_t j = 0; j < kKeys; ++j) {
        sums[j] = V::fma(part, load_some<V, D>(keys, first + (t + j) * stride + whole, rest), sums[j]);
      }
    }
    float four[4];
    V::store_sums(four, sums);
    for (std::size_t j = 0; j < kKeys; ++j) scores[t + j] = four[j] * scale;
  };
  std::size_t t = 0;
  for (; t + 4 <= count; t += 4) score.template operator()<4>(t);
  for (; t < count; ++t) score.template operator()<1>(t);
}

// out = out * correction + sum over t of probabilities[t] * value t.
template <class V, DType D>
void add_values(const float* probabilities, const void* values, std::size_t first, std::size_t stride,
                std::size_t count, std::size_t head_dim, float correction, float* out) {
  std::size_t i = 0;
  // Four vectors at a time: as many chains of additions, over one probability.
  for (; i + 4 * V::kWidth <= head_dim; i += 4 * V::kWidth) {
    typename V::Reg sums[4];
    for (std::size_t v = 0; v < 4; ++v) sums[v] = V::mul(V::load(out + i + v * V::kWidth), V::set(correction));
    for (std::size_t t = 0; t < count; ++t) {
      const auto probability = V::set(probabilities[t]);
#pragma GCC unroll 4
      for (std::size_t v = 0; v < 4; ++v) {
        sums[v] = V::fma(probability, load<V, D>(values, first + t * stride + i + v * V::kWidth), sums[v]);
      }
    }
    for (std::size_t v = 0; v < 4; ++v) V::store(out + i + v * V::kWidth, sums[v]);
  }
  for_each_vector<V>(head_dim - i, [&](std::size_t offset, std::size_t lanes) {
    float* rest = out + i + offset;
    auto sum = V::mul(load_f32<V>(rest, lanes), V::set(correction));
    for (std::size_t t = 0; t < count; ++t) {
      const std::size_t index = first + t * stride + i + offset;
      const auto value = lanes == V::kWidth ? load<V, D>(values, index) : load_some<V, D>(values, index, lanes);
      sum = V::fma(V::set(probabilities[t]), value, sum);
    }
    store_f32<V>(rest, sum, lanes);
  });
}

// Softmax with a running maximum (Milakov & Gimelshein 2018), so that each page is read once. Chunks end where blocks
// end: they depend on the position only, never on the batch.
template <class V, DType D>
void attend_of(const AttendCall& call) {
  float highest[kMaxQueriesPerCall];
  float sums[kMaxQueriesPerCall];
  float scores[kAttendChunk];
  for (std::size_t head = 0; head < call.heads; ++head) {
    highest[head] = -__builtin_inff();
    sums[head] = 0;
  }
  for (std::size_t i = 0; i < call.heads * call.head_dim; ++i) call.out[i] = 0;

  for (std::size_t position = call.begin; position < call.end;) {
    const std::size_t offset = position % call.block_size;
    std::size_t count = call.block_size - offset;
    if (count > call.end - position) count = call.end - position;
    if (count > kAttendChunk - offset % kAttendChunk) count = kAttendChunk - offset % kAttendChunk;
    const std::size_t slot = call.block_table[position / call.block_size] * call.block_size + offset;
    const std::size_t first = slot * call.slot_stride;

    for (std::size_t head = 0; head < call.heads; ++head) {
      score_keys<V, D>(call.queries + head * call.head_dim, call.keys, first, call.slot_stride, count, call.head_dim,
                       call.scale, scores);
      float peak = highest[head];
      for (std::size_t t = 0; t < count; ++t) peak = scores[t] > peak ? scores[t] : peak;
      float correction = 0;
      if (peak > highest[head] && position != call.begin) {
        correction = V::first(exp<V>(V::set(highest[head] - peak)));
      } else if (peak == highest[head]) {
        correction = 1;
      }
      highest[head] = peak;

      auto chunk_sum = V::set(0.0f);
      for_each_vector<V>(count, [&](std::size_t i, std::size_t lanes) {
        const auto probability = exp<V>(V::sub(load_f32<V>(scores + i, lanes), V::set(peak)));
        store_f32<V>(scores + i, probability, lanes);
        chunk_sum = V::add(chunk_sum, load_f32<V>(scores + i, lanes));
      });
      sums[head] = sums[head] * correction + V::sum(chunk_sum);
      add_values<V, D>(scores, call.values, first, call.slot_stride, count, call.head_dim, correction,
                       call.out + head * call.head_dim);
    }
    position += count;
  }
  for (std::size_t head = 0; head < call.heads; ++head) {
    const auto factor = V::set(1 / sums[head]);
    float* out = call.out + head * call.head_dim;
    for_each_vector<V>(call.head_dim, [&](std::size_t i, std::size_t lanes) {
      store_f32<V>(out + i, V::mul(load_f32<V>(out + i, lanes), factor), lanes);
    });
  }
}

template <class V>
void attend(const AttendCall& call) {
  switch (call.dtype) {
    case DType::kF16: return attend_of<V, DType::kF16>(call);
    case DType::kBF16: return attend_of<V, DType::kBF16>(call);
    default: return attend_of<V, DType::kF32>(call);
  }
}

template <class V>
void rms_norm(const float* in, const float* weight, std::size_t size, float eps, float* out) {
  auto squares = V::set(0.0f);
  for_each_vector<V>(size, [&](std::size_t i, std::size_t lanes) {
    const auto x = load_f32<V>(in + i, lanes);
    squares = V::fma(x, x, squares);
  });
  const auto factor = V::set(1 / __builtin_sqrtf(V::sum(squares) / static_cast<float>(size) + eps));
  for_each_vector<V>(size, [&](std::size_t i, std::size_t lanes) {
    const auto scaled = V::mul(load_f32<V>(in + i, lanes), factor);
    store_f32<V>(out + i, V::mul(scaled, load_f32<V>(weight + i, lanes)), lanes);
  });
}

template <class V>
void rotate(float* head, std::size_t pairs, const float* cosines, const float* sines, bool interleaved) {
  if (interleaved) {
    for (std::size_t i = 0; i < pairs; ++i) {
      const float x = head[2 * i];
      const float y = head[2 * i + 1];
      head[2 * i] = x * cosines[i] - y * sines[i];
      head[2 * i + 1] = y * cosines[i] + x * sines[i];
    }
    return;
  }
  for_each_vector<V>(pairs, [&](std::size_t i, std::size_t lanes) {
    const auto x = load_f32<V>(head + i, lanes);
    const auto y = load_f32<V>(head + pairs + i, lanes);
    const auto cosine = load_f32<V>(cosines + i, lanes);
    const auto sine = load_f32<V>(sines + i, lanes);
    store_f32<V>(head + i, V::sub(V::mul(x, cosine), V::mul(y, sine)), lanes);
    store_f32<V>(head + pairs + i, V::fma(y, cosine, V::mul(x, sine)), lanes);
  });
}

template <class V>
void silu_multiply(const float* gate, const float* up, std::size_t size, float* out) {
  const auto one = V::set(1.0f);
  for_each_vector<V>(size, [&](std::size_t i, std::size_t lanes) {
    const auto x = load_f32<V>(gate + i, lanes);
    const auto silu = V::div(x, V::add(one, exp<V>(V::sub(V::set(0.0f), x))));
    store_f32<V>(out + i, V::mul(silu, load_f32<V>(up + i, lanes)), lanes);
  });
}

template <class V>
void add(const float* addend, std::size_t size, float* sum) {
  for_each_vector<V>(size, [&](std::size_t i, std::size_t lanes) {
    store_f32<V>(sum + i, V::add(load_f32<V>(sum + i, lanes), load_f32<V>(addend + i, lanes)), lanes);
  });
}

template <class V, DType D>
void widen_of(const void* in, std::size_t size, float* out) {
  for_each_vector<V>(size, [&](std::size_t i, std::size_t lanes) {
    store_f32<V>(out + i, lanes == V::kWidth ? load<V, D>(in, i) : load_some<V, D>(in, i, lanes), lanes);
  });
}

template <class V>
void widen(const void* in, DType dtype, std::size_t size, float* out) {
  switch (dtype) {
    case DType::kF16: return widen_of<V, DType::kF16>(in, size, out);
    case DType::kBF16: return widen_of<V, DType::kBF16>(in, size, out);
    default: return widen_of<V, DType::kF32>(in, size, out);
  }
}

template <class V, DType D>
void narrow_of(const float* in, std::size_t size, std::uint16_t* out) {
  for_each_vector<V>(size, [&](std::size_t i, std::size_t lanes) {
    const auto halves = V::template narrow<D>(load_f32<V>(in + i, lanes));
    if (lanes == V::kWidth) {
      V::store_halves(out + i, halves);
    } else {
      V::store_some_halves(out + i, halves, lanes);
    }
  });
}

template <class V>
void narrow(const float* in, DType dtype, std::size_t size, void* out) {
  switch (dtype) {
    case DType::kF16: return narrow_of<V, DType::kF16>(in, size, static_cast<std::uint16_t*>(out));
    case DType::kBF16: return narrow_of<V, DType::kBF16>(in, size, static_cast<std::uint16_t*>(out));
    default: return widen_of<V, DType::kF32>(in, size, static_cast<float*>(out));
  }
}

template <class V>
constexpr VectorOps vector_ops(const char* name) {
  return {
      .name = name,
      .width = V::kWidth,
      .panel_vectors = V::kPanelVectors,
      .tile_rows = V::kTileRows,
      .linear_tile = linear_tile<V>,
      .attend = attend<V>,
      .rms_norm = rms_norm<V>,
      .rotate = rotate<V>,
      .silu_multiply = silu_multiply<V>,
      .add = add<V>,
      .widen = widen<V>,
      .narrow = narrow<V>,
  };
}

}  // namespace
}  // namespace troupe::kernels
