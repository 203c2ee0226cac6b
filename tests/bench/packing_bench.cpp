// How fast weights are packed for a GPU on the way to it, by number of threads, beside plain copies: a load is as fast
// as the slowest of reading the file, this, and the GPU's link. Writes to a ring as large as the pinned slots of
// kernels::GpuMemory, in parts as large as there.
//
//   packing_bench [THREADS]     default: every core of this process
#include <fmt/format.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "kernels/cpu/team.h"
#include "kernels/cuda/gpu_memory.h"
#include "kernels/cuda/packed_weight.h"

using namespace troupe;
using namespace troupe::kernels;

namespace {

constexpr std::size_t kRows = 4096, kCols = 14'336, kPartBytes = 256 << 10;
constexpr std::size_t kRingBytes = GpuMemory::kSlots * GpuMemory::kSlotBytes;
constexpr int kRounds = 5;

std::vector<int> cores_of_this_process() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  std::vector<int> cores;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return cores;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (CPU_ISSET(core, &allowed)) cores.push_back(core);
  }
  return cores;
}

// Bytes a second of writing `bytes` in parts, the best of kRounds; write(offset, to).
template <class Write>
double bytes_per_second(Team& team, std::vector<std::byte>& ring, std::size_t bytes, std::size_t grain,
                        const Write& write) {
  const std::size_t part_bytes = std::max(grain, kPartBytes / grain * grain), slots = ring.size() / part_bytes;
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    team.run((bytes + part_bytes - 1) / part_bytes, [&](std::size_t part, std::size_t) {
      const std::size_t offset = part * part_bytes;
      write(offset, std::span(ring).subspan(part % slots * part_bytes, std::min(part_bytes, bytes - offset)));
    });
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, static_cast<double>(bytes) / seconds);
  }
  return best;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<int> cores = cores_of_this_process();
  if (argc > 1) {
    const int wanted = std::atoi(argv[1]);
    if (argc > 2 || wanted < 1 || static_cast<std::size_t>(wanted) > cores.size()) {
      fmt::print(stderr, "usage: packing_bench [THREADS], at most {}\n", cores.size());
      return 2;
    }
    cores.resize(static_cast<std::size_t>(wanted));
  }
  constexpr std::pair<std::string_view, DType> kFormats[] = {
      {"F32", DType::kF32},   {"F16", DType::kF16},   {"BF16", DType::kBF16}, {"Q8_0", DType::kQ8_0},
      {"Q4_0", DType::kQ4_0}, {"Q5_0", DType::kQ5_0}, {"Q4_K", DType::kQ4_K}, {"Q5_K", DType::kQ5_K},
      {"Q6_K", DType::kQ6_K}, {"int8", DType::kInt8}, {"int4", DType::kInt4}};
  std::vector<std::byte> ring(kRingBytes, std::byte{1});
  std::vector<std::byte> stored(matrix_bytes(DType::kF32, kRows, kCols));
  for (std::size_t i = 0; i < stored.size(); ++i) stored[i] = static_cast<std::byte>(i * 2654435761u >> 24);
  const std::vector<float> scales(kRows, 1.0f);

  fmt::print("GB/s of packed weights, ({}, {}) each\n{:<8}", kRows, kCols, "threads");
  for (const auto& [name, dtype] : kFormats) fmt::print("{:>7}", name);
  fmt::print("{:>9}\n", "memcpy");
  for (std::size_t threads = 1; threads <= cores.size();
       threads = threads < cores.size() ? std::min(threads * 2, cores.size()) : threads + 1) {
    auto team = Team::make({cores.begin(), cores.begin() + static_cast<std::ptrdiff_t>(threads)});
    if (!team.ok()) {
      fmt::print(stderr, "packing_bench: {}\n", team.error().message);
      return 1;
    }
    fmt::print("{:<8}", threads);
    for (const auto& [name, dtype] : kFormats) {
      const WeightView weight = {.data = stored.data(),
                                 .dtype = dtype,
                                 .rows = kRows,
                                 .cols = kCols,
                                 .row_stride = kCols,
                                 .scales = dtype == DType::kInt8 ? scales.data() : nullptr};
      const std::size_t chunk_bytes = gpu_chunk_bytes(dtype);
      const double speed = bytes_per_second(
          **team, ring, gpu_panels(kRows) * gpu_panel_bytes(dtype, kCols), chunk_bytes,
          [&](std::size_t offset, std::span<std::byte> to) { pack_chunks_for_gpu(weight, offset / chunk_bytes, to); });
      fmt::print("{:>7.1f}", speed * 1e-9);
    }
    const double copied =
        bytes_per_second(**team, ring, stored.size(), 256, [&](std::size_t offset, std::span<std::byte> to) {
          std::copy_n(stored.data() + offset, to.size(), to.data());
        });
    fmt::print("{:>9.1f}\n", copied * 1e-9);
  }
  return 0;
}
