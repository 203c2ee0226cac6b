#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "kernels/cuda/gpu.h"

namespace troupe::kernels {

// What was asked of a GPU so far.
struct GpuCounts {
  int synchronizations = 0;
  int uploads = 0;
  int recordings = 0;
  int replays = 0;
};

// Another GPU, and a count of what is asked of it.
class CountingGpu final : public Gpu {
 public:
  CountingGpu(std::unique_ptr<Gpu> gpu, GpuCounts& counts) : gpu_(std::move(gpu)), counts_(counts) {}

  std::string_view name() const override { return gpu_->name(); }
  GpuProperties properties() const override { return gpu_->properties(); }
  Stream stream() const override { return gpu_->stream(); }
  Result<void> use_in_this_thread() override { return gpu_->use_in_this_thread(); }
  Result<GpuMemoryInfo> memory_info() override { return gpu_->memory_info(); }
  Result<void*> allocate(std::uint64_t bytes) override { return gpu_->allocate(bytes); }
  void free(void* memory) override { gpu_->free(memory); }
  Result<void*> allocate_pinned(std::uint64_t bytes) override { return gpu_->allocate_pinned(bytes); }
  void free_pinned(void* memory) override { gpu_->free_pinned(memory); }
  void copy_to_device(void* device, const void* host, std::uint64_t bytes) override {
    ++counts_.uploads;
    gpu_->copy_to_device(device, host, bytes);
  }
  void copy_to_host(void* host, const void* device, std::uint64_t bytes) override {
    gpu_->copy_to_host(host, device, bytes);
  }
  void copy(void* to, const void* from, std::uint64_t bytes) override { gpu_->copy(to, from, bytes); }
  void fill(void* device, unsigned char value, std::uint64_t bytes) override { gpu_->fill(device, value, bytes); }
  Result<void> synchronize() override {
    ++counts_.synchronizations;
    return gpu_->synchronize();
  }
  void notify(std::function<void(Result<void>)> done) override { gpu_->notify(std::move(done)); }
  Result<std::unique_ptr<GpuEvent>> make_event() override { return gpu_->make_event(); }
  void record(GpuEvent& event) override { gpu_->record(event); }
  Result<void> wait(const GpuEvent& event) override { return gpu_->wait(event); }
  Result<bool> reached(const GpuEvent& event) override { return gpu_->reached(event); }
  Result<double> milliseconds_between(const GpuEvent& first, const GpuEvent& second) override {
    return gpu_->milliseconds_between(first, second);
  }
  Result<void> begin_capture() override {
    ++counts_.recordings;
    return gpu_->begin_capture();
  }
  Result<std::unique_ptr<GpuGraph>> end_capture() override { return gpu_->end_capture(); }
  void replay(const GpuGraph& graph) override {
    ++counts_.replays;
    gpu_->replay(graph);
  }

 private:
  const std::unique_ptr<Gpu> gpu_;
  GpuCounts& counts_;
};

}  // namespace troupe::kernels
