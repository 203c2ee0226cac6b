#pragma once

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <vector>

#include "tests/kernels/cuda/devices.h"

namespace troupe::kernels {

// Arrays on a device, which are freed with this object.
class TestGpu {
 public:
  explicit TestGpu(Gpu& gpu) : gpu_(gpu) {}
  TestGpu(const TestGpu&) = delete;
  TestGpu& operator=(const TestGpu&) = delete;
  ~TestGpu() {
    for (void* memory : arrays_) gpu_.free(memory);
  }

  Stream stream() const { return gpu_.stream(); }

  template <class T>
  T* room(std::size_t count) {
    auto memory = gpu_.allocate(count == 0 ? 1 : count * sizeof(T));
    if (!memory.ok()) throw std::runtime_error(memory.error().message);
    arrays_.push_back(*memory);
    return static_cast<T*>(*memory);
  }

  template <class T>
  T* upload(const T* from, std::size_t count) {
    T* to = room<T>(count);
    if (count > 0) gpu_.copy_to_device(to, from, count * sizeof(T));
    must_synchronize(gpu_);
    return to;
  }

  template <class T>
  std::vector<T> download(const T* from, std::size_t count) {
    std::vector<T> to(count);
    if (count > 0) gpu_.copy_to_host(to.data(), from, count * sizeof(T));
    must_synchronize(gpu_);
    return to;
  }

 private:
  Gpu& gpu_;
  std::vector<void*> arrays_;
};

}  // namespace troupe::kernels
