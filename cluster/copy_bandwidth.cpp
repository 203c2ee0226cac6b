#include "cluster/copy_bandwidth.h"

#include <algorithm>

#include "kernels/cuda/gpu.h"
#include "kernels/select.h"

namespace troupe::cluster {
namespace {

// Several times the second-level cache; less where a model has left little.
constexpr std::uint64_t kMostBytes = std::uint64_t{256} << 20;
constexpr std::uint64_t kGrain = 4096;
constexpr int kCopies = 8;

}  // namespace

Result<std::unique_ptr<CopyBandwidth>> CopyBandwidth::make(const std::vector<std::uint32_t>& gpus) {
  std::unique_ptr<CopyBandwidth> made(new CopyBandwidth);
  for (const std::uint32_t gpu : gpus) {
    Member member;
    TROUPE_ASSIGN_OR_RETURN(member.kernels, kernels::make_kernels({.cores = {}, .gpu = gpu}));
    kernels::DeviceMemory& memory = member.kernels->memory();
    TROUPE_ASSIGN_OR_RETURN(const kernels::MemoryRoom room, memory.room());
    member.bytes = std::clamp(room.free_bytes / 4 / kGrain * kGrain, kGrain, kMostBytes);
    TROUPE_ASSIGN_OR_RETURN(void* const data, memory.allocate(2 * member.bytes, "measuring the copy bandwidth"));
    member.memory = static_cast<std::byte*>(data);
    made->members_.push_back(std::move(member));
  }
  return made;
}

CopyBandwidth::~CopyBandwidth() {
  for (const Member& member : members_) {
    static_cast<void>(member.kernels->memory().gpu_or_null()->use_in_this_thread());
    member.kernels->memory().release(member.memory, 2 * member.bytes);
  }
}

Result<double> CopyBandwidth::measure() {
  double sum = 0;
  for (const Member& member : members_) {
    kernels::Gpu& gpu = *member.kernels->memory().gpu_or_null();
    TROUPE_RETURN_IF_ERROR(gpu.use_in_this_thread());
    TROUPE_ASSIGN_OR_RETURN(const auto begin, gpu.make_event());
    TROUPE_ASSIGN_OR_RETURN(const auto end, gpu.make_event());
    gpu.copy(member.memory, member.memory + member.bytes, member.bytes);  // clocks rise, pages are there
    gpu.record(*begin);
    for (int i = 0; i < kCopies; ++i) gpu.copy(member.memory, member.memory + member.bytes, member.bytes);
    gpu.record(*end);
    TROUPE_ASSIGN_OR_RETURN(const double milliseconds, gpu.milliseconds_between(*begin, *end));
    sum += 2.0 * kCopies * static_cast<double>(member.bytes) / std::max(milliseconds * 1e-3, 1e-9);
  }
  return sum;
}

}  // namespace troupe::cluster
