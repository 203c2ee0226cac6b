#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "kernels/cuda/packed_weight.h"
#include "tests/kernels/any_weight.h"
#include "tests/kernels/cuda/test_gpu.h"

namespace troupe::kernels {

// Every type that weights of GPUs may have.
inline constexpr DType kWeightTypes[] = {DType::kF32,  DType::kF16,  DType::kBF16, DType::kQ8_0,
                                         DType::kQ4_0, DType::kQ5_0, DType::kQ4_K, DType::kQ5_K,
                                         DType::kQ6_K, DType::kInt8, DType::kInt4};

inline GpuWeight upload(TestGpu& gpu, const WeightView& weight) {
  std::vector<std::byte> image(gpu_image_bytes(weight.dtype, weight.rows, weight.cols));
  pack_for_gpu(weight, image);
  return {gpu.upload(image.data(), image.size()), weight.dtype, weight.rows, weight.cols};
}

// A weight of any type and what it stands for.
class AnyTypeWeight {
 public:
  AnyTypeWeight(DType dtype, std::size_t rows, std::size_t cols, Random& random) : cols_(cols), values_(rows * cols) {
    if (is_quantised(dtype)) {
      quantised_ = std::make_unique<AnyWeight>(dtype, rows, cols, 0, random);
    } else {
      floats_ = std::make_unique<Stored>(dtype, rows, cols, 2, random);
    }
    for (std::size_t row = 0; row < rows; ++row) {
      if (quantised_) {
        dequantize_row(quantised_->view(), row, &values_[row * cols]);
      } else {
        for (std::size_t col = 0; col < cols; ++col) values_[row * cols + col] = floats_->at(row, col);
      }
    }
  }

  const WeightView& view() const { return quantised_ ? quantised_->view() : floats_->view(); }
  float at(std::size_t row, std::size_t col) const { return values_[row * cols_ + col]; }

 private:
  std::unique_ptr<AnyWeight> quantised_;
  std::unique_ptr<Stored> floats_;
  std::size_t cols_;
  std::vector<float> values_;  // (rows, cols)
};

}  // namespace troupe::kernels
