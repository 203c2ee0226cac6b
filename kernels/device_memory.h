#pragma once

#include <cstdint>
#include <functional>
#include <string_view>

#include "kernels/tensor.h"
#include "runtime/base/result.h"

namespace troupe::kernels {

class Gpu;

struct MemoryRoom {
  std::uint64_t free_bytes = 0;  // of all processes together
  std::uint64_t total_bytes = 0;
};

// What was allocated and not yet released.
struct MemoryUse {
  std::uint64_t bytes = 0;
  std::uint64_t peak_bytes = 0;  // the most so far
};

// The memory that a device computes in, and the ways to and from it. Pointers to it belong to the device: the host
// reads and writes them only where is_host().
//
// Order: copies, and the operations of the Kernels object that this belongs to, take place in the order of their calls.
// Only download() and synchronize() wait for them; notify() tells when they are done.
// Errors of earlier operations (a device that is lost, a kernel that failed) come out of download() and synchronize(),
// from then on every time.
// Thread-safety: one thread, that of the Kernels object.
class DeviceMemory {
 public:
  virtual ~DeviceMemory() = default;

  virtual bool is_host() const = 0;

  // The GPU whose memory it is, for whoever queues work of their own there; null for the host's. Same thread.
  virtual Gpu* gpu_or_null() { return nullptr; }

  // Zeros, aligned to 256 bytes; released by the same object. Errors: kResourceExhausted, which names `purpose`, the
  // bytes, and what is free where that is known. REQUIRES: bytes > 0
  virtual Result<void*> allocate(std::uint64_t bytes, std::string_view purpose) = 0;
  virtual void release(void* memory, std::uint64_t bytes) = 0;

  // Errors: what became of the device.
  virtual Result<MemoryRoom> room() = 0;
  // Of this object; where is_host(), of the process.
  virtual MemoryUse use() const = 0;

  // Host memory that is quickly copied to and from this device; this object itself where is_host().
  virtual DeviceMemory& pinned() = 0;

  // device = host. The caller may change `host` as soon as this returns.
  virtual void upload(void* device, const void* host, std::uint64_t bytes) = 0;

  // host = device. Returns when it is there.
  virtual Result<void> download(void* host, const void* device, std::uint64_t bytes) = 0;

  // device = host and host = device, where the host's side is memory of pinned(), which the caller leaves alone until
  // synchronize() has returned: nothing waits, and what is copied out is there only then.
  virtual void copy_in(void* device, const void* pinned, std::uint64_t bytes) = 0;
  virtual void copy_out(void* pinned, const void* device, std::uint64_t bytes) = 0;

  // Within the device. The ranges do not overlap.
  virtual void copy(void* to, const void* from, std::uint64_t bytes) = 0;
  // The same of a matrix. REQUIRES: both have the same rows and cols
  virtual void copy_matrix(ConstMatrixF32 from, MatrixF32 to) = 0;

  virtual void clear(void* device, std::uint64_t bytes) = 0;

  // Returns when everything so far is done.
  virtual Result<void> synchronize() = 0;

  // Calls `done`, once, when everything so far is done or has failed: from any thread, perhaps before this returns. It
  // must not use this object, nor take long. Errors: those of synchronize().
  virtual void notify(std::function<void(Result<void>)> done) = 0;
};

// What the CPU computes in: pages of the system, which it gives when they are first touched. For all threads.
DeviceMemory& host_memory();

}  // namespace troupe::kernels
