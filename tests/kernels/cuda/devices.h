#pragma once

#include <cstdlib>
#include <memory>
#include <span>
#include <stdexcept>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/cuda/gpu.h"
#include "tests/kernels/implementations.h"

namespace troupe::kernels {

// The emulated GPU, and the first real one where there is one; with TROUPE_TEST_GPU=cuda in the environment that one
// alone, and there must be one.
inline std::vector<std::unique_ptr<Gpu>> gpus_to_test() {
  const char* wanted = std::getenv("TROUPE_TEST_GPU");
  const bool only_real = wanted != nullptr && std::string_view(wanted) == "cuda";
  std::vector<std::unique_ptr<Gpu>> gpus;
  if (!only_real) gpus.push_back(open_emulated_gpu());
  auto real = open_gpu(0);
  if (only_real && !real.ok()) throw std::runtime_error(real.error().message);
  if (real.ok()) gpus.push_back(std::move(real).value());
  return gpus;
}

inline void must_synchronize(Gpu& gpu) {
  if (const auto done = gpu.synchronize(); !done.ok()) throw std::runtime_error(done.error().message);
}

// A copy of an array on a GPU.
template <class T>
class OnGpu {
 public:
  OnGpu(Gpu& gpu, std::span<const T> values) : gpu_(gpu), size_(values.size()) {
    if (size_ == 0) return;
    auto memory = gpu.allocate(values.size_bytes());
    if (!memory.ok()) throw std::runtime_error(memory.error().message);
    data_ = static_cast<T*>(*memory);
    gpu.copy_to_device(data_, values.data(), values.size_bytes());
    must_synchronize(gpu);
  }
  OnGpu(Gpu& gpu, const std::vector<T>& values) : OnGpu(gpu, std::span<const T>(values)) {}
  OnGpu(const OnGpu&) = delete;
  OnGpu& operator=(const OnGpu&) = delete;
  ~OnGpu() {
    if (data_ != nullptr) gpu_.free(data_);
  }

  T* data() const { return data_; }
  void fetch(T* to) const {
    if (size_ > 0) gpu_.copy_to_host(to, data_, size_ * sizeof(T));
    must_synchronize(gpu_);
  }

 private:
  Gpu& gpu_;
  std::size_t size_;
  T* data_ = nullptr;  // null without values
};

// A matrix with its gaps.
class MatrixOnGpu {
 public:
  MatrixOnGpu(Gpu& gpu, MatrixF32 host) : host_(host), values_(gpu, std::span<const float>(host.data, size(host))) {}

  MatrixF32 view() const { return {values_.data(), host_.rows, host_.cols, host_.row_stride}; }
  // Back to where it came from.
  void fetch() const { values_.fetch(host_.data); }

 private:
  static std::size_t size(const MatrixF32& matrix) { return matrix.rows * matrix.row_stride; }

  MatrixF32 host_;
  OnGpu<float> values_;
};

class PagesOnGpu {
 public:
  PagesOnGpu(Gpu& gpu, const PagedKv& host)
      : host_(host),
        keys_(gpu, bytes(host, host.keys)),
        values_(gpu, bytes(host, host.values)),
        key_scales_(gpu, scales(host, host.key_scales)),
        value_scales_(gpu, scales(host, host.value_scales)) {}

  PagedKv view() const {
    PagedKv kv = host_;
    kv.keys = keys_.data();
    kv.values = values_.data();
    kv.key_scales = key_scales_.data();
    kv.value_scales = value_scales_.data();
    return kv;
  }
  void fetch() const {
    keys_.fetch(static_cast<std::byte*>(host_.keys));
    values_.fetch(static_cast<std::byte*>(host_.values));
    key_scales_.fetch(host_.key_scales);
    value_scales_.fetch(host_.value_scales);
  }

 private:
  static std::span<const std::byte> bytes(const PagedKv& kv, const void* data) {
    return {static_cast<const std::byte*>(data), kv.slots() * kv.num_kv_heads * kv.head_dim * size_of(kv.dtype)};
  }
  static std::span<const float> scales(const PagedKv& kv, const float* data) {
    return {data, kv.slots() * kv.num_kv_heads};
  }

  PagedKv host_;
  OnGpu<std::byte> keys_, values_;
  OnGpu<float> key_scales_, value_scales_;
};

}  // namespace troupe::kernels
