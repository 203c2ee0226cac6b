#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "runtime/base/result.h"

// Operations on GPUs.
//
// Every operation is written once, in a .cu file, and compiled twice: by nvcc into the namespace `cuda`, if there is a
// CUDA toolkit, and by the C++ compiler into the namespace `emulated`, always (kernels/cuda/simt.h). Its header, plain
// C++, declares a struct of device pointers and sizes, and the functions of both namespaces:
//
//   TROUPE_GPU_FUNCTIONS(void add(Stream stream, const AddArgs& args);)
//
// Whoever has a stream calls the one that the stream belongs to:
//
//   TROUPE_GPU_CALL(add, gpu.stream(), args);
#define TROUPE_GPU_FUNCTIONS(...) \
  namespace cuda {                \
  __VA_ARGS__                     \
  }                               \
  namespace emulated {            \
  __VA_ARGS__                     \
  }

#ifdef TROUPE_HAVE_CUDA
#define TROUPE_GPU_CALL(function, stream, ...)                                         \
  ((stream).is_emulated ? ::troupe::kernels::emulated::function((stream), __VA_ARGS__) \
                        : ::troupe::kernels::cuda::function((stream), __VA_ARGS__))
#else
#define TROUPE_GPU_CALL(function, stream, ...) ::troupe::kernels::emulated::function((stream), __VA_ARGS__)
#endif

namespace troupe::kernels {

// Where a Gpu's work queues up. A value; belongs to the Gpu that hands it out.
struct Stream {
  void* handle = nullptr;  // cudaStream_t, or emulated::EmulatedStream
  bool is_emulated = false;
};

struct GpuProperties {
  int compute_capability = 0;  // 80 = 8.0
  int multiprocessors = 0;
  std::uint64_t unique_id = 0;  // that of GpuInfo (gpu_list.h): the same wherever the same GPU is looked at
};

struct GpuMemoryInfo {
  std::uint64_t free_bytes = 0;
  std::uint64_t total_bytes = 0;
};

// Recorded work of one Gpu, to be repeated. Must not outlive it.
class GpuGraph {
 public:
  virtual ~GpuGraph() = default;
};

// A point in a Gpu's stream. Must not outlive it.
class GpuEvent {
 public:
  virtual ~GpuEvent() = default;
};

// One opened GPU, with one stream.
//
// Order: copies, fills and kernels are asynchronous and take place in the order of their calls.
// Errors of what is asynchronous come out of synchronize(), from then on every time: a GPU that failed stays so.
// Thread-safety: one thread at a time; a thread other than the one that opened it calls use_in_this_thread() first.
class Gpu {
 public:
  virtual ~Gpu() = default;

  virtual std::string_view name() const = 0;  // "NVIDIA H100 80GB HBM3", "emulated GPU"
  virtual GpuProperties properties() const = 0;
  virtual Stream stream() const = 0;
  virtual Result<void> use_in_this_thread() = 0;

  virtual Result<GpuMemoryInfo> memory_info() = 0;

  // Aligned to 256 bytes, contents undefined. Errors: kResourceExhausted, which says what is free. REQUIRES: bytes > 0
  virtual Result<void*> allocate(std::uint64_t bytes) = 0;
  // Waits for the stream first.
  virtual void free(void* memory) = 0;
  // Host memory that the GPU reads and writes by itself.
  virtual Result<void*> allocate_pinned(std::uint64_t bytes) = 0;
  virtual void free_pinned(void* memory) = 0;

  // The host's side must stay as it is until synchronize(), and be pinned for the copy to overlap with anything.
  virtual void copy_to_device(void* device, const void* host, std::uint64_t bytes) = 0;
  virtual void copy_to_host(void* host, const void* device, std::uint64_t bytes) = 0;
  virtual void copy(void* to, const void* from, std::uint64_t bytes) = 0;  // within the device
  virtual void fill(void* device, unsigned char value, std::uint64_t bytes) = 0;

  // Returns when everything so far is done.
  virtual Result<void> synchronize() = 0;
  // Calls `done`, once, when everything so far is done or has failed: from any thread, perhaps before this returns.
  // What comes after it does not wait for that call. It must not use the GPU. Errors: those of synchronize().
  virtual void notify(std::function<void(Result<void>)> done) = 0;

  virtual Result<std::unique_ptr<GpuEvent>> make_event() = 0;
  virtual void record(GpuEvent& event) = 0;
  // Returns when everything before the event is done. REQUIRES: it was recorded.
  virtual Result<void> wait(const GpuEvent& event) = 0;
  // Whether everything before it is done; true if it was never recorded. From any thread that called
  // use_in_this_thread(), but not while another one records it.
  virtual Result<bool> reached(const GpuEvent& event) = 0;
  // From one to the other. Waits for both. REQUIRES: both were recorded.
  virtual Result<double> milliseconds_between(const GpuEvent& first, const GpuEvent& second) = 0;

  // What is called between the two is recorded, and does not run. Allocations and synchronize() do not belong there.
  virtual Result<void> begin_capture() = 0;
  virtual Result<std::unique_ptr<GpuGraph>> end_capture() = 0;
  virtual void replay(const GpuGraph& graph) = 0;
};

// GPU `index` as the driver counts. Errors, each with its remedy: this build has no CUDA; no driver, or one that is too
// old; no GPU, or none of that index; one that the kernels are not compiled for.
Result<std::unique_ptr<Gpu>> open_gpu(std::uint32_t index);

// A GPU that this process computes by itself, slowly: for tests, and to try out topologies.
//
// It can be broken: where the environment has TROUPE_EMULATED_GPU_FAULT=FILE, the first emulated GPU cuda:N whose
// synchronize() finds FILE with the line "cuda:N WHAT" removes it, and has stopped because of WHAT.
std::unique_ptr<Gpu> open_emulated_gpu(std::uint32_t index = 0);

}  // namespace troupe::kernels
