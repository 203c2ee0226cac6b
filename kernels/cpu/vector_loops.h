// The loops of VectorOps over a vector type V, which the including file defines (kernels/cpu/avx2.cpp says what V
// must offer). Everything here has internal linkage: two instruction sets must not share an instance.

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/attention_loops.h"
#include "kernels/cpu/linear_loops.h"
#include "kernels/cpu/vector_access.h"

namespace troupe::kernels {
namespace {

template <class V>
void scale(const float* in, float factor, std::size_t size, float* out) {
  for_each_vector<V>(size, [&](std::size_t i, std::size_t lanes) {
    store_f32<V>(out + i, V::mul(load_f32<V>(in + i, lanes), V::set(factor)), lanes);
  });
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
void add(const float* a, const float* b, std::size_t size, float* out) {
  for_each_vector<V>(size, [&](std::size_t i, std::size_t lanes) {
    store_f32<V>(out + i, V::add(load_f32<V>(a + i, lanes), load_f32<V>(b + i, lanes)), lanes);
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
constexpr VectorOps vector_ops() {
  return {
      .width = V::kWidth,
      .panel_vectors = V::kPanelVectors,
      .tile_rows = V::kTileRows,
      .linear_tile = linear_tile<V>,
      .attend = attend<V>,
      .combine = combine<V>,
      .rms_norm = rms_norm<V>,
      .rotate = rotate<V>,
      .silu_multiply = silu_multiply<V>,
      .add = add<V>,
      .scale = scale<V>,
      .widen = widen<V>,
      .narrow = narrow<V>,
  };
}

}  // namespace
}  // namespace troupe::kernels
