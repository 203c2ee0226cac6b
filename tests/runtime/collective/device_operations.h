#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "kernels/cuda/gpu_memory.h"
#include "runtime/collective/communicator.h"

namespace troupe::collective::testing {

using Memories = std::vector<std::unique_ptr<kernels::GpuMemory>>;  // by rank
using Groups = std::vector<std::unique_ptr<Communicator>>;          // by rank

// Floats in the memory of a device.
class Tensor {
 public:
  Tensor(kernels::DeviceMemory& memory, const std::vector<float>& values) : memory_(memory), size_(values.size()) {
    if (size_ == 0) return;
    data_ = static_cast<float*>(memory.allocate(bytes(), "a test").value());
    memory.upload(data_, values.data(), bytes());
  }
  ~Tensor() {
    if (data_ != nullptr) memory_.release(data_, bytes());
  }
  Tensor(const Tensor&) = delete;
  Tensor& operator=(const Tensor&) = delete;

  std::span<float> span() const { return {data_, size_}; }
  std::vector<float> values() const {
    std::vector<float> copy(size_);
    return memory_.download(copy.data(), data_, bytes()).ok() ? copy : std::vector<float>();
  }

 private:
  std::uint64_t bytes() const { return size_ * sizeof(float); }

  kernels::DeviceMemory& memory_;
  float* data_ = nullptr;
  std::size_t size_;
};

// Calls work(rank) on a thread for each rank, and returns what each got.
template <class Work>
auto on_every_rank(std::uint32_t world_size, const Work& work) {
  std::vector<decltype(work(0u))> results(world_size);
  std::vector<std::jthread> threads;
  for (std::uint32_t rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] { results[rank] = work(rank); });
  }
  threads.clear();
  return results;
}

// That every operation, of few floats and of many, leaves in the memories of GPUs the very bits that a group on the
// host gives.
void check_operations(Memories& memories, Groups& groups);

}  // namespace troupe::collective::testing
