#include <chrono>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cuda/emulator/grid.h"
#include "kernels/cuda/gpu.h"

namespace troupe::kernels {
namespace {

constexpr std::size_t kAlignment = 256;

struct EmulatedGraph final : GpuGraph {
  std::vector<std::function<void()>> work;
};

struct EmulatedEvent final : GpuEvent {
  std::chrono::steady_clock::time_point time;
};

// What breaks GPU `index` now, if anything (open_emulated_gpu). Whoever removes the file is the one that breaks.
std::string fault_of(std::uint32_t index) {
  const char* path = std::getenv("TROUPE_EMULATED_GPU_FAULT");
  if (path == nullptr) return {};
  std::ifstream file(path);
  std::string device, what;
  if (!(file >> device) || device != "cuda:" + std::to_string(index) || !std::getline(file >> std::ws, what)) return {};
  return std::remove(path) == 0 ? what : std::string();
}

class EmulatedGpu final : public Gpu {
 public:
  explicit EmulatedGpu(std::uint32_t index) : index_(index) {}

  std::string_view name() const override { return "emulated GPU"; }
  GpuProperties properties() const override {
    return {.compute_capability = 80, .multiprocessors = 4, .unique_id = index_};
  }
  Stream stream() const override { return {&stream_, true}; }
  Result<void> use_in_this_thread() override { return {}; }

  Result<GpuMemoryInfo> memory_info() override { return GpuMemoryInfo{kMemoryBytes - used_bytes_, kMemoryBytes}; }

  Result<void*> allocate(std::uint64_t bytes) override {
    if (recording_ != nullptr) return internal_error("no memory can be allocated while work is recorded");
    // Of exactly this size, so that AddressSanitizer sees what reads beyond it; the size lies apart.
    void* memory = nullptr;
    if (bytes > kMemoryBytes - used_bytes_ || posix_memalign(&memory, kAlignment, bytes) != 0) {
      return resource_exhausted("the emulated GPU has " + std::to_string(kMemoryBytes - used_bytes_) + " bytes free, " +
                                std::to_string(bytes) + " are wanted");
    }
    used_bytes_ += bytes;
    pieces_.push_back({memory, bytes});
    return memory;
  }

  void free(void* memory) override {
    std::erase_if(pieces_, [&](const Piece& piece) {
      if (piece.memory != memory) return false;
      used_bytes_ -= piece.bytes;
      std::free(memory);
      return true;
    });
  }

  Result<void*> allocate_pinned(std::uint64_t bytes) override {
    void* memory = nullptr;
    if (posix_memalign(&memory, kAlignment, bytes) != 0) {
      return resource_exhausted("no memory for " + std::to_string(bytes) + " bytes");
    }
    return memory;
  }
  void free_pinned(void* memory) override { std::free(memory); }

  void copy_to_device(void* device, const void* host, std::uint64_t bytes) override { copy(device, host, bytes); }
  void copy_to_host(void* host, const void* device, std::uint64_t bytes) override { copy(host, device, bytes); }
  void copy(void* to, const void* from, std::uint64_t bytes) override {
    stream_.run([=] { std::memcpy(to, from, bytes); });
  }
  void fill(void* device, unsigned char value, std::uint64_t bytes) override {
    stream_.run([=] { std::memset(device, value, bytes); });
  }

  Result<void> synchronize() override {
    if (recording_ != nullptr) return internal_error("nothing can be waited for while work is recorded");
    if (stream_.error.empty()) stream_.error = fault_of(index_);
    if (!stream_.error.empty()) return internal_error("the emulated GPU stopped: " + stream_.error);
    return {};
  }

  void notify(std::function<void(Result<void>)> done) override { done(synchronize()); }

  Result<std::unique_ptr<GpuEvent>> make_event() override { return {std::make_unique<EmulatedEvent>()}; }
  void record(GpuEvent& event) override {
    stream_.run([&event] { static_cast<EmulatedEvent&>(event).time = std::chrono::steady_clock::now(); });
  }
  Result<void> wait(const GpuEvent&) override { return synchronize(); }
  Result<bool> reached(const GpuEvent&) override { return true; }
  Result<double> milliseconds_between(const GpuEvent& first, const GpuEvent& second) override {
    TROUPE_RETURN_IF_ERROR(synchronize());
    return std::chrono::duration<double, std::milli>(static_cast<const EmulatedEvent&>(second).time -
                                                     static_cast<const EmulatedEvent&>(first).time)
        .count();
  }

  Result<void> begin_capture() override {
    if (recording_ != nullptr) return internal_error("a capture has begun before");
    recording_ = std::make_unique<EmulatedGraph>();
    stream_.recording = &recording_->work;
    return {};
  }
  Result<std::unique_ptr<GpuGraph>> end_capture() override {
    if (recording_ == nullptr) return internal_error("no capture has begun");
    stream_.recording = nullptr;
    return {std::unique_ptr<GpuGraph>(std::move(recording_))};
  }
  void replay(const GpuGraph& graph) override {
    for (const auto& work : static_cast<const EmulatedGraph&>(graph).work) stream_.run(work);
  }

 private:
  static constexpr std::uint64_t kMemoryBytes = std::uint64_t{4} << 30;

  struct Piece {
    void* memory;
    std::uint64_t bytes;
  };

  const std::uint32_t index_;
  mutable emulated::EmulatedStream stream_;
  std::unique_ptr<EmulatedGraph> recording_;
  std::vector<Piece> pieces_;
  std::uint64_t used_bytes_ = 0;
};

}  // namespace

std::unique_ptr<Gpu> open_emulated_gpu(std::uint32_t index) { return std::make_unique<EmulatedGpu>(index); }

}  // namespace troupe::kernels
