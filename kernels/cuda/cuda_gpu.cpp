#include <cuda_runtime_api.h>

#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "kernels/cuda/gpu.h"

namespace troupe::kernels {
namespace {

// The oldest GPU that the kernels are compiled for.
constexpr int kMinComputeCapability = 80;

std::string describe(cudaError_t status) {
  return std::string(cudaGetErrorString(status)) + " (" + cudaGetErrorName(status) + ")";
}

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

// What to do about an error of opening a GPU.
Error open_error(cudaError_t status) {
  switch (status) {
    case cudaErrorInsufficientDriver: {
      int driver = 0, runtime = 0;
      cudaDriverGetVersion(&driver);
      cudaRuntimeGetVersion(&runtime);
      if (driver == 0) return unavailable("no NVIDIA driver here: install one, or use cpu devices");
      return unavailable("the NVIDIA driver supports CUDA " + version(driver) + ", this build needs " +
                         version(runtime) + ": update the driver");
    }
    case cudaErrorNoDevice:
      return unavailable("no GPU that this process may see: check nvidia-smi and CUDA_VISIBLE_DEVICES");
    case cudaErrorSystemDriverMismatch:
      return unavailable(
          "the NVIDIA driver and its libraries are of different versions: reboot, or reinstall the driver");
    case cudaErrorDevicesUnavailable:
      return unavailable("the GPU is in exclusive use by another process: end it, or change the compute mode");
    default: return unavailable("CUDA does not start: " + describe(status));
  }
}

// What happened to work that was accepted before. There is no way back: a process that sees this ends.
Error stream_error(cudaError_t status) {
  switch (status) {
    case cudaErrorECCUncorrectable:
    case cudaErrorHardwareStackError:
      return unavailable("the GPU's hardware failed: " + describe(status) +
                         "; see dmesg for its Xid, and replace it if that comes back");
    case cudaErrorDeviceUninitialized:
    case cudaErrorNoDevice:
    case cudaErrorUnknown:
      return unavailable("the GPU was lost: " + describe(status) +
                         "; see dmesg for its Xid, and nvidia-smi whether it is there");
    case cudaErrorIllegalAddress:
    case cudaErrorIllegalInstruction:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorMisalignedAddress:
      return internal_error("a kernel broke off: " + describe(status) +
                            "; see dmesg for its Xid, and if that comes back, run it under compute-sanitizer");
    case cudaErrorLaunchTimeout:
      return internal_error("a kernel was ended by the display's watchdog: " + describe(status) +
                            "; compute on a GPU without a display");
    default: return internal_error("the GPU stopped: " + describe(status) + "; see dmesg for its Xid");
  }
}

std::uint64_t unique_id(const cudaUUID_t& uuid) {
  std::uint64_t id = 0;
  std::memcpy(&id, uuid.bytes, sizeof id);
  return id;
}

struct CudaGraph final : GpuGraph {
  explicit CudaGraph(cudaGraphExec_t graph) : graph(graph) {}
  ~CudaGraph() override { cudaGraphExecDestroy(graph); }
  const cudaGraphExec_t graph;
};

struct CudaEvent final : GpuEvent {
  explicit CudaEvent(cudaEvent_t event) : event(event) {}
  ~CudaEvent() override { cudaEventDestroy(event); }
  const cudaEvent_t event;
};

class CudaGpu final : public Gpu {
 public:
  CudaGpu(int index, const cudaDeviceProp& properties, cudaStream_t stream, cudaStream_t notices, cudaEvent_t done)
      : index_(index),
        name_(properties.name),
        properties_{.compute_capability = properties.major * 10 + properties.minor,
                    .multiprocessors = properties.multiProcessorCount,
                    .unique_id = unique_id(properties.uuid)},
        stream_(stream),
        notices_(notices),
        done_(done) {}

  ~CudaGpu() override {
    cudaStreamSynchronize(stream_);
    cudaStreamSynchronize(notices_);
    cudaEventDestroy(done_);
    cudaStreamDestroy(notices_);
    cudaStreamDestroy(stream_);
  }

  std::string_view name() const override { return name_; }
  GpuProperties properties() const override { return properties_; }
  Stream stream() const override { return {stream_, false}; }

  Result<void> use_in_this_thread() override {
    if (const auto status = cudaSetDevice(index_); status != cudaSuccess) return stream_error(status);
    return {};
  }

  Result<GpuMemoryInfo> memory_info() override {
    std::size_t free = 0, total = 0;
    if (const auto status = cudaMemGetInfo(&free, &total); status != cudaSuccess) return stream_error(status);
    return GpuMemoryInfo{free, total};
  }

  Result<void*> allocate(std::uint64_t bytes) override {
    keep(cudaGetLastError());  // of a launch; what comes now is not one of the stream
    void* memory = nullptr;
    const auto status = cudaMalloc(&memory, bytes);
    if (status == cudaSuccess) return memory;
    cudaGetLastError();
    if (status != cudaErrorMemoryAllocation) return stream_error(status);
    std::size_t free = 0, total = 0;
    cudaMemGetInfo(&free, &total);
    return resource_exhausted("the GPU has " + std::to_string(free) + " of " + std::to_string(total) + " bytes free, " +
                              std::to_string(bytes) +
                              " are wanted: lower limits.kv_memory, or give other processes' memory back");
  }

  void free(void* memory) override { keep(cudaFree(memory)); }

  Result<void*> allocate_pinned(std::uint64_t bytes) override {
    keep(cudaGetLastError());
    void* memory = nullptr;
    const auto status = cudaMallocHost(&memory, bytes);
    if (status == cudaSuccess) return memory;
    cudaGetLastError();
    return resource_exhausted("no pinned host memory for " + std::to_string(bytes) + " bytes: " + describe(status));
  }

  void free_pinned(void* memory) override { keep(cudaFreeHost(memory)); }

  void copy_to_device(void* device, const void* host, std::uint64_t bytes) override {
    keep(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_));
  }
  void copy_to_host(void* host, const void* device, std::uint64_t bytes) override {
    keep(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_));
  }
  void copy(void* to, const void* from, std::uint64_t bytes) override {
    keep(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream_));
  }
  void fill(void* device, unsigned char value, std::uint64_t bytes) override {
    keep(cudaMemsetAsync(device, value, bytes, stream_));
  }

  Result<void> synchronize() override {
    keep(cudaGetLastError());  // a launch that was refused
    keep(cudaStreamSynchronize(stream_));
    if (failed_ != cudaSuccess) return stream_error(failed_);
    return {};
  }

  // The host is called from a stream of its own: the other one would not go on before the call is over. Not by
  // cudaLaunchHostFunc, which calls nobody when the device has failed.
  void notify(std::function<void(Result<void>)> done) override {
    using Done = std::function<void(Result<void>)>;
    keep(cudaGetLastError());
    keep(cudaEventRecord(done_, stream_));
    keep(cudaStreamWaitEvent(notices_, done_, 0));
    if (failed_ != cudaSuccess) return done(stream_error(failed_));
    auto call = std::make_unique<Done>(std::move(done));
    const auto give = [](cudaStream_t, cudaError_t status, void* data) {
      const std::unique_ptr<Done> call(static_cast<Done*>(data));
      (*call)(status == cudaSuccess ? Result<void>() : Result<void>(stream_error(status)));
    };
    const auto status = cudaStreamAddCallback(notices_, give, call.get(), 0);
    keep(status);
    if (status != cudaSuccess) return (*call)(stream_error(status));
    static_cast<void>(call.release());  // the callback has it
  }

  Result<std::unique_ptr<GpuEvent>> make_event() override {
    cudaEvent_t event = nullptr;
    if (const auto status = cudaEventCreate(&event); status != cudaSuccess) return stream_error(status);
    return {std::make_unique<CudaEvent>(event)};
  }
  void record(GpuEvent& event) override { keep(cudaEventRecord(static_cast<CudaEvent&>(event).event, stream_)); }
  Result<void> wait(const GpuEvent& event) override {
    keep(cudaEventSynchronize(static_cast<const CudaEvent&>(event).event));
    if (failed_ != cudaSuccess) return stream_error(failed_);
    return {};
  }
  Result<bool> reached(const GpuEvent& event) override {
    const auto status = cudaEventQuery(static_cast<const CudaEvent&>(event).event);
    if (status != cudaSuccess && status != cudaErrorNotReady) return stream_error(status);
    return status == cudaSuccess;
  }
  Result<double> milliseconds_between(const GpuEvent& first, const GpuEvent& second) override {
    const auto& last = static_cast<const CudaEvent&>(second);
    keep(cudaEventSynchronize(last.event));
    float milliseconds = 0;
    keep(cudaEventElapsedTime(&milliseconds, static_cast<const CudaEvent&>(first).event, last.event));
    if (failed_ != cudaSuccess) return stream_error(failed_);
    return double{milliseconds};
  }

  Result<void> begin_capture() override {
    const auto status = cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
    if (status != cudaSuccess) return stream_error(status);
    return {};
  }
  Result<std::unique_ptr<GpuGraph>> end_capture() override {
    cudaGraph_t graph = nullptr;
    if (const auto status = cudaStreamEndCapture(stream_, &graph); status != cudaSuccess) return stream_error(status);
    cudaGraphExec_t executable = nullptr;
    const auto status = cudaGraphInstantiate(&executable, graph, 0);
    cudaGraphDestroy(graph);
    if (status != cudaSuccess) return stream_error(status);
    return {std::make_unique<CudaGraph>(executable)};
  }
  void replay(const GpuGraph& graph) override {
    keep(cudaGraphLaunch(static_cast<const CudaGraph&>(graph).graph, stream_));
  }

 private:
  // The first error stays.
  void keep(cudaError_t status) {
    if (failed_ == cudaSuccess) failed_ = status;
  }

  const int index_;
  const std::string name_;
  const GpuProperties properties_;
  const cudaStream_t stream_;
  const cudaStream_t notices_;  // where notify() waits for stream_
  const cudaEvent_t done_;      // in stream_, at the last call of it
  cudaError_t failed_ = cudaSuccess;
};

}  // namespace

Result<std::unique_ptr<Gpu>> open_gpu(std::uint32_t index) {
  int count = 0;
  if (const auto status = cudaGetDeviceCount(&count); status != cudaSuccess) return open_error(status);
  if (index >= static_cast<std::uint32_t>(count)) {
    return invalid_argument("there is no cuda:" + std::to_string(index) + ", this process sees " +
                            std::to_string(count) + ": cuda:0 to cuda:" + std::to_string(count - 1));
  }
  const int device = static_cast<int>(index);
  cudaDeviceProp properties;
  if (const auto status = cudaGetDeviceProperties(&properties, device); status != cudaSuccess) {
    return open_error(status);
  }
  if (properties.major * 10 + properties.minor < kMinComputeCapability) {
    return unsupported("cuda:" + std::to_string(index) + " (" + properties.name + ") has compute capability " +
                       std::to_string(properties.major) + "." + std::to_string(properties.minor) +
                       ", the kernels need 8.0 (A100) or newer: use cpu devices");
  }
  if (const auto status = cudaSetDevice(device); status != cudaSuccess) return open_error(status);
  cudaStream_t stream = nullptr;
  if (const auto status = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking); status != cudaSuccess) {
    return open_error(status);
  }
  cudaStream_t notices = nullptr;
  cudaEvent_t done = nullptr;
  if (const auto status = cudaStreamCreateWithFlags(&notices, cudaStreamNonBlocking); status != cudaSuccess) {
    return open_error(status);
  }
  if (const auto status = cudaEventCreateWithFlags(&done, cudaEventDisableTiming); status != cudaSuccess) {
    return open_error(status);
  }
  return {std::make_unique<CudaGpu>(device, properties, stream, notices, done)};
}

}  // namespace troupe::kernels
