#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/cuda/gpu_memory.h"

namespace troupe::kernels {

// A list of numbers that operations get in the host's memory, on the device. Every layer of a step passes the same
// lists: one that has not changed since the latest upload is not sent again. Grows, and never shrinks.
template <class T>
class DeviceList {
 public:
  explicit DeviceList(GpuMemory& memory) : memory_(memory) {}
  ~DeviceList() {
    if (device_ != nullptr) memory_.release(device_, capacity_ * sizeof(T));
  }
  DeviceList(const DeviceList&) = delete;
  DeviceList& operator=(const DeviceList&) = delete;

  // The list on the device, until the next call. Null for an empty list, and when the device has no memory for it:
  // `memory` keeps that error.
  const T* on_device(std::span<const T> list) {
    if (list.empty()) return nullptr;
    if (device_ != nullptr && is_latest(list)) return device_;
    if (list.size() > capacity_ && !grow(list.size())) return nullptr;
    latest_.assign(list.begin(), list.end());
    memory_.upload(device_, latest_.data(), list.size_bytes());
    return device_;
  }

 private:
  static_assert(std::has_unique_object_representations_v<T> || std::is_floating_point_v<T>);

  // To the bit: a list of floats may hold what is not equal to itself.
  bool is_latest(std::span<const T> list) const {
    return list.size() == latest_.size() && std::memcmp(list.data(), latest_.data(), list.size_bytes()) == 0;
  }

  // Releasing waits for operations that still read the smaller one.
  bool grow(std::size_t size) {
    if (device_ != nullptr) memory_.release(std::exchange(device_, nullptr), capacity_ * sizeof(T));
    latest_.clear();
    capacity_ = 0;
    const std::size_t wanted = std::max(size, std::size_t{1024}) * 2;
    auto memory = memory_.allocate(wanted * sizeof(T), "the lists of a step");
    if (!memory.ok()) {
      memory_.fail(std::move(memory).error());
      return false;
    }
    device_ = static_cast<T*>(*memory);
    capacity_ = wanted;
    latest_.reserve(wanted);
    return true;
  }

  GpuMemory& memory_;
  T* device_ = nullptr;
  std::size_t capacity_ = 0;  // elements
  std::vector<T> latest_;     // what was uploaded
};

}  // namespace troupe::kernels
