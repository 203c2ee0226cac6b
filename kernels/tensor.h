#pragma once

#include <array>
#include <cassert>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>

namespace troupe::kernels {

enum class DType : std::uint8_t {
  kF32,
  kF16,
  kBF16,
  kI8,
  kI32,
  kU8,
  kE4M3,  // KV pages (kernels/cpu/e4m3.h)
  // Quantised weights (kernels/quant.h): GGUF's block formats ...
  kQ8_0,
  kQ4_0,
  kQ5_0,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  // ... and our own, stored as the kernels read them.
  kInt8,
  kInt4,
};

// Bytes of one element; 0 for the quantised types, whose elements do not stand alone.
constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kF32:
    case DType::kI32: return 4;
    case DType::kF16:
    case DType::kBF16: return 2;
    case DType::kI8:
    case DType::kU8:
    case DType::kE4M3: return 1;
    default: return 0;
  }
}

// Types of KV pages in which each token's key and value of a head has a factor of its own.
constexpr bool has_page_scales(DType dtype) { return dtype == DType::kI8 || dtype == DType::kE4M3; }

// Where memory lives. A pointer of another device is never dereferenced by the host.
enum class DeviceKind : std::uint8_t { kCpu, kCuda };

// A non-owning view of a dense matrix or vector: rows of `cols` contiguous elements, `row_stride` elements apart.
// Value type; the caller keeps the memory alive. Higher-rank tensors are passed as matrices whose comment states
// how rows and columns fold.
template <class T>
struct Matrix {
  T* data = nullptr;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t row_stride = 0;  // elements

  Matrix() = default;
  Matrix(T* data, std::size_t rows, std::size_t cols) : Matrix(data, rows, cols, cols) {}
  Matrix(T* data, std::size_t rows, std::size_t cols, std::size_t row_stride)
      : data(data), rows(rows), cols(cols), row_stride(row_stride) {}

  T* row(std::size_t index) const {
    assert(index < rows);
    return data + index * row_stride;
  }
  Matrix rows_from(std::size_t first, std::size_t count) const {
    assert(first + count <= rows);
    return {data + first * row_stride, count, cols, row_stride};
  }
  operator Matrix<const T>() const requires(!std::is_const_v<T>) { return {data, rows, cols, row_stride}; }
};

using MatrixF32 = Matrix<float>;
using ConstMatrixF32 = Matrix<const float>;

// A weight as it lies in a file: (rows = out_features, cols = in_features), row-major, of a storage type or in blocks
// of a GGUF format; or in panels, in one of our own formats (kernels/quant.h says how each may be sliced).
struct WeightView {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  std::size_t rows = 0;
  std::size_t cols = 0;
  std::size_t row_stride = 0;     // elements; whole blocks of a block format; of a panel, in our own
  const float* scales = nullptr;  // kInt8: (rows)
};

}  // namespace troupe::kernels
