#include "tests/bench/gpu_bench/ceilings.h"

#include <cmath>
#include <random>
#include <vector>

#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/gpu_list.h"

namespace troupe::bench {
namespace {

using namespace kernels;

// Of NVIDIA's own library, on a handle of its own to the same GPU.
double library_seconds(const Bench& bench, CublasLt& library, Gpu& gpu, std::size_t size) {
  std::mt19937 random(2);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<std::uint16_t> halves(size * size);
  for (auto& half : halves) half = bf16(uniform(random));
  const std::size_t bytes = halves.size() * sizeof halves[0];
  auto* in = static_cast<std::uint16_t*>(must(gpu.allocate(bytes), "memory"));
  auto* weight = static_cast<std::uint16_t*>(must(gpu.allocate(bytes), "memory"));
  auto* out = static_cast<float*>(must(gpu.allocate(2 * bytes), "memory"));
  auto* workspace = static_cast<std::byte*>(must(gpu.allocate(CublasLt::kWorkspaceBytes), "memory"));
  for (std::uint16_t* to : {in, weight}) gpu.copy_to_device(to, halves.data(), bytes);
  must(gpu.synchronize(), "copying");
  const LibraryProduct product = {.in = in,
                                  .in_stride = size,
                                  .weight = weight,
                                  .weight_stride = size,
                                  .out = out,
                                  .out_stride = size,
                                  .rows = size,
                                  .cols = size,
                                  .outs = size};
  const double seconds = bench.seconds_of([&] { must(library.multiply(gpu.stream(), product, workspace), "cuBLASLt"); },
                                          10, [&] { return gpu.synchronize(); });
  for (void* memory :
       {static_cast<void*>(in), static_cast<void*>(weight), static_cast<void*>(out), static_cast<void*>(workspace)}) {
    gpu.free(memory);
  }
  return seconds;
}

}  // namespace

Ceilings measure_ceilings(Bench& bench, std::uint32_t gpu, std::size_t copied, std::size_t size) {
  Ceilings ceilings;
  {
    const Bench::Scope scope(bench);
    void* const from = bench.random_halves(copied / 2);
    void* const to = bench.take(copied);
    const double seconds = bench.seconds_of([&] { bench.memory().copy(to, from, copied); }, 10);
    ceilings.bytes_per_second = 2.0 * static_cast<double>(copied) / seconds;
  }
  double seconds = 0;
  auto library = open_cublaslt();
  ceilings.by_library = library.ok() && !gpus_are_emulated();
  if (ceilings.by_library) {
    seconds = library_seconds(bench, **library, *must(open_gpu(gpu), "the GPU"), size);
  } else {
    const Bench::Scope scope(bench);
    const auto weight = bench.random_weight(size, size, DType::kBF16);
    const MatrixF32 in = bench.random_floats(size, size), out = bench.random_floats(size, size);
    seconds = bench.seconds_of([&] { bench.kernels().linear(in, {weight.get()}, out); }, 3);
    bench.forget_weights();
  }
  ceilings.operations_per_second = 2.0 * std::pow(static_cast<double>(size), 3) / seconds;
  return ceilings;
}

}  // namespace troupe::bench
