#pragma once

#include <cstddef>
#include <string_view>

#include "kernels/cuda/gpu_memory.h"

namespace troupe::kernels {

// Device memory that grows to what the largest operation needs, and never shrinks. Growing waits for those that still
// use the smaller one.
class Workspace {
 public:
  // purpose: for errors; of static lifetime.
  Workspace(GpuMemory& memory, std::string_view purpose) : memory_(memory), purpose_(purpose) {}
  ~Workspace() { release(); }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  // At least so many bytes, at a multiple of 256, until the next call. Null for 0 bytes; null as well when the device
  // has no memory for them: `memory` keeps that error.
  std::byte* of(std::size_t bytes);

 private:
  void release();

  GpuMemory& memory_;
  const std::string_view purpose_;
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace troupe::kernels
