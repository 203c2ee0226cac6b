#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/half.h"
#include "kernels/cpu/kv_slots.h"
#include "kernels/select.h"

namespace troupe::kernels {

// The implementations that this machine can run, the reference left out.
inline std::vector<std::string> vector_implementations() {
  std::vector<std::string> names;
  for (const char* name : {"avx2", "avx512", "avx512_bf16", "amx"}) {
    if (select_cpu_implementation(detect_cpu_features(), name).ok()) names.push_back(name);
  }
  return names;
}

// Whether it rounds the inputs of a weight of that type to 8 bits.
inline bool rounds_inputs(const std::string& name, DType dtype) {
  return name == "avx512_bf16" && dtype == DType::kBF16;
}

// `threads` members that share core 0 beyond the cores there are: what threads do must not change any number.
inline std::unique_ptr<Kernels> make(const std::string& name, int threads = 1) {
  std::vector<int> cores;
  for (int i = 0; threads > 1 && i < threads; ++i) cores.push_back(0);
  return std::move(make_cpu_kernels({.cores = cores, .implementation = name})).value();
}

// With another TROUPE_TEST_SEED in the environment, a test draws other numbers and shapes (tests/gpu/fuzz.sh).
class Random {
 public:
  explicit Random(std::uint32_t seed) : engine_(seed + seed_of_run()) {}
  // One of first, ..., last.
  std::size_t pick(std::size_t first, std::size_t last) {
    return std::uniform_int_distribution<std::size_t>(first, last)(engine_);
  }
  float normal() { return std::normal_distribution<float>()(engine_); }
  std::vector<float> normals(std::size_t count, float scale = 1) {
    std::vector<float> values(count);
    for (float& value : values) value = normal() * scale;
    return values;
  }

 private:
  static std::uint32_t seed_of_run() {
    const char* given = std::getenv("TROUPE_TEST_SEED");
    return given == nullptr ? 0 : 1'000'003 * static_cast<std::uint32_t>(std::strtoul(given, nullptr, 10));
  }

  std::mt19937 engine_;
};

// A matrix whose rows lie further apart than they are long; what lies between and behind must stay as it is.
class Strided {
 public:
  static constexpr float kUntouched = 12345.0f;

  Strided(std::size_t rows, std::size_t cols, std::size_t gap)
      : values_(rows * (cols + gap) + 64, kUntouched), view_(values_.data(), rows, cols, cols + gap) {}
  Strided(std::size_t rows, std::size_t cols, std::size_t gap, Random& random, float scale = 1)
      : Strided(rows, cols, gap) {
    for (std::size_t row = 0; row < rows; ++row) {
      for (std::size_t col = 0; col < cols; ++col) view_.row(row)[col] = random.normal() * scale;
    }
  }
  Strided(const Strided& other) : values_(other.values_), view_(other.view_) { view_.data = values_.data(); }
  Strided& operator=(const Strided&) = delete;

  MatrixF32 view() { return view_; }
  float at(std::size_t row, std::size_t col) const { return view_.row(row)[col]; }
  std::vector<float> row(std::size_t row) const { return {view_.row(row), view_.row(row) + view_.cols}; }

  bool gaps_untouched() const {
    for (std::size_t i = 0; i < values_.size(); ++i) {
      const bool inside = i / view_.row_stride < view_.rows && i % view_.row_stride < view_.cols;
      if (!inside && values_[i] != kUntouched) return false;
    }
    return true;
  }

 private:
  std::vector<float> values_;
  MatrixF32 view_;
};

// Numbers in a storage type, with a gap between rows.
class Stored {
 public:
  Stored(DType dtype, std::size_t rows, std::size_t cols, std::size_t gap, Random& random)
      : bytes_((rows * (cols + gap)) * size_of(dtype)), view_{bytes_.data(), dtype, rows, cols, cols + gap} {
    for (std::size_t i = 0; i < rows * (cols + gap); ++i) store_from_f32(random.normal(), bytes_.data(), dtype, i);
  }
  Stored(const Stored&) = delete;
  Stored& operator=(const Stored&) = delete;

  const WeightView& view() const { return view_; }
  float at(std::size_t row, std::size_t col) const {
    return load_as_f32(bytes_.data(), view_.dtype, row * view_.row_stride + col);
  }

 private:
  std::vector<char> bytes_;
  WeightView view_;
};

// One layer's pages, zeros at first.
class Pages {
 public:
  Pages(DType dtype, std::size_t num_blocks, std::size_t block_size, std::size_t kv_heads, std::size_t head_dim)
      : keys_(num_blocks * block_size * kv_heads * head_dim * size_of(dtype)),
        values_(keys_.size()),
        key_scales_(num_blocks * block_size * kv_heads),
        value_scales_(key_scales_.size()) {
    shape_.dtype = dtype;
    shape_.num_blocks = num_blocks;
    shape_.block_size = block_size;
    shape_.num_kv_heads = kv_heads;
    shape_.head_dim = head_dim;
  }

  PagedKv view() {
    PagedKv kv = shape_;
    kv.keys = keys_.data();
    kv.values = values_.data();
    kv.key_scales = key_scales_.data();
    kv.value_scales = value_scales_.data();
    return kv;
  }
  const PagedKv& shape() const { return shape_; }
  float key(std::size_t slot, std::size_t head, std::size_t i) const {
    return load_key(const_cast<Pages*>(this)->view(), slot, head, i);
  }
  float value(std::size_t slot, std::size_t head, std::size_t i) const {
    return load_value(const_cast<Pages*>(this)->view(), slot, head, i);
  }
  // Takes over what other pages of the same shape hold of a token.
  void copy_slot(const Pages& other, std::size_t slot) {
    const std::size_t size = size_of(shape_.dtype);
    for (std::size_t head = 0; head < shape_.num_kv_heads; ++head) {
      const std::size_t scale = shape_.scale_index(slot, head);
      key_scales_[scale] = other.key_scales_[scale];
      value_scales_[scale] = other.value_scales_[scale];
      for (std::size_t i = 0; i < shape_.head_dim; ++i) {
        const std::size_t key = (shape_.key_index(slot, head) + i * shape_.block_size) * size;
        const std::size_t value = (shape_.value_index(slot, head) + i) * size;
        std::copy_n(other.keys_.data() + key, size, keys_.data() + key);
        std::copy_n(other.values_.data() + value, size, values_.data() + value);
      }
    }
  }
  bool same_bits(const Pages& other) const {
    return keys_ == other.keys_ && values_ == other.values_ && key_scales_ == other.key_scales_ &&
           value_scales_ == other.value_scales_;
  }
  // Calls visit(mine, the other's) for every element of every key and value.
  template <class Visit>
  void compare(const Pages& other, const Visit& visit) const {
    for (std::size_t slot = 0; slot < shape_.slots(); ++slot) {
      for (std::size_t head = 0; head < shape_.num_kv_heads; ++head) {
        for (std::size_t i = 0; i < shape_.head_dim; ++i) {
          visit(key(slot, head, i), other.key(slot, head, i));
          visit(value(slot, head, i), other.value(slot, head, i));
        }
      }
    }
  }

 private:
  PagedKv shape_;
  std::vector<char> keys_;
  std::vector<char> values_;
  std::vector<float> key_scales_;
  std::vector<float> value_scales_;
};

constexpr DType kPageTypes[] = {DType::kF32, DType::kF16, DType::kBF16, DType::kI8, DType::kE4M3};
constexpr DType kStorageTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

// The largest |a - b| of two matrices; infinite where one of them is not finite and the other differs.
inline float largest_difference(const Strided& a, const Strided& b, std::size_t rows, std::size_t cols) {
  float largest = 0;
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t col = 0; col < cols; ++col) {
      const float difference = std::abs(a.at(row, col) - b.at(row, col));
      largest = difference >= 0 ? std::max(largest, difference) : INFINITY;
    }
  }
  return largest;
}

}  // namespace troupe::kernels
