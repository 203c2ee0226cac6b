// How close the kernels come to what this machine can do. Limits and kernels are measured in turn, several times, and
// compared round by round, so that a neighbour on the machine slows down both; medians are printed.
//
//   kernels_bench [IMPLEMENTATION] [THREADS] [ROUNDS] [quantised|float]

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <time.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/cpu/half.h"
#include "kernels/cpu/team.h"
#include "kernels/quant.h"
#include "kernels/select.h"

using namespace troupe::kernels;

namespace {

constexpr std::size_t kMemoryBytes = std::size_t{256} << 20;  // well beyond the caches

double seconds_of(clockid_t clock, const std::function<void()>& work) {
  timespec start, end;
  clock_gettime(clock, &start);
  work();
  clock_gettime(clock, &end);
  return double(end.tv_sec - start.tv_sec) + 1e-9 * double(end.tv_nsec - start.tv_nsec);
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

using Words = std::uint64_t __attribute__((vector_size(64)));

// Reads all of it, adding into enough registers to keep loads in flight.
void read_all(const Words* words, std::size_t count, std::uint64_t* result) {
  Words sums[2] = {};
  for (std::size_t i = 0; i + 2 <= count; i += 2) {
    sums[0] += words[i];
    sums[1] += words[i + 1];
  }
  const Words sum = sums[0] + sums[1];
  *result = sum[0] + sum[1] + sum[2] + sum[3] + sum[4] + sum[5] + sum[6] + sum[7];
}

// Twelve chains of multiply-adds in registers, nothing else: `times` rounds of kChains * width each.
constexpr std::size_t kChains = 12;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) void multiply_add_16(std::size_t times, float* result) {
  const __m512 scale = _mm512_set1_ps(1e-3f);
  __m512 sums[kChains];
  for (auto& sum : sums) sum = scale;
  for (std::size_t i = 0; i < times; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm512_fmadd_ps(sum, scale, scale);
  }
  for (const auto& sum : sums) *result += _mm512_cvtss_f32(sum);
}

__attribute__((target("avx2,fma"))) void multiply_add_8(std::size_t times, float* result) {
  const __m256 scale = _mm256_set1_ps(1e-3f);
  __m256 sums[kChains];
  for (auto& sum : sums) sum = scale;
  for (std::size_t i = 0; i < times; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm256_fmadd_ps(sum, scale, scale);
  }
  for (const auto& sum : sums) *result += _mm256_cvtss_f32(sum);
}

// The same with products of bytes, four to a sum.
__attribute__((target("avx512f,avx512vnni"))) void multiply_bytes_64(std::size_t times, float* result) {
  const __m512i bytes = _mm512_set1_epi8(1);
  __m512i sums[kChains];
  for (auto& sum : sums) sum = bytes;
  for (std::size_t i = 0; i < times; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm512_dpbusd_epi32(sum, bytes, bytes);
  }
  for (const auto& sum : sums) *result += float(_mm512_reduce_add_epi32(sum));
}

__attribute__((target("avx2"))) void multiply_bytes_32(std::size_t times, float* result) {
  const __m256i bytes = _mm256_set1_epi8(1);
  __m256i sums[kChains];
  for (auto& sum : sums) sum = bytes;
  for (std::size_t i = 0; i < times; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = _mm256_add_epi16(_mm256_maddubs_epi16(sum, bytes), bytes);
  }
  for (const auto& sum : sums) *result += float(_mm256_extract_epi16(sum, 0));
}

// AMX: twelve products of (16, 64) and (64, 16) bytes a round.
__attribute__((target("amx-tile,amx-int8"))) void multiply_tiles(std::size_t times, float*) {
  alignas(64) std::uint8_t config[64] = {1};
  for (int tile = 0; tile < 8; ++tile) {
    config[16 + 2 * tile] = 64;
    config[48 + tile] = 16;
  }
  asm volatile("" ::: "memory");  // GCC 12's intrinsic does not say that it reads all of this
  _tile_loadconfig(config);
  _tile_zero(6);
  _tile_zero(7);
  for (std::size_t i = 0; i < times; ++i) {
    _tile_dpbssd(0, 6, 7);
    _tile_dpbssd(1, 6, 7);
    _tile_dpbssd(2, 6, 7);
    _tile_dpbssd(3, 6, 7);
    _tile_dpbssd(0, 6, 7);
    _tile_dpbssd(1, 6, 7);
    _tile_dpbssd(2, 6, 7);
    _tile_dpbssd(3, 6, 7);
    _tile_dpbssd(0, 6, 7);
    _tile_dpbssd(1, 6, 7);
    _tile_dpbssd(2, 6, 7);
    _tile_dpbssd(3, 6, 7);
  }
  _tile_release();
}
#endif

void multiply_add_1(std::size_t times, float* result) {
  float sums[kChains];
  for (auto& sum : sums) sum = 1e-3f;
  for (std::size_t i = 0; i < times; ++i) {
#pragma GCC unroll 12
    for (auto& sum : sums) sum = sum * 1e-3f + 1e-3f;
  }
  for (const float sum : sums) *result += sum;
}

struct PeakLoop {
  void (*run)(std::size_t times, float* result) = multiply_add_1;
  std::size_t width = 1;
};

// Of float32, with the instructions that these kernels use, which are not always the fastest that the machine has.
PeakLoop peak_loop_of(std::string_view kernels) {
#if defined(__x86_64__)
  if (kernels.starts_with("avx512") || kernels == "amx") return {multiply_add_16, 16};
  if (kernels == "avx2") return {multiply_add_8, 8};
#endif
  return {};
}

// Of products of bytes; width: products that one instruction does.
PeakLoop byte_peak_loop_of(std::string_view kernels) {
#if defined(__x86_64__)
  if (kernels == "amx") return {multiply_tiles, 16 * 16 * 64};
  if (kernels.starts_with("avx512") && detect_cpu_features().avx512_vnni) return {multiply_bytes_64, 64};
  if (kernels.starts_with("avx512") || kernels == "avx2") return {multiply_bytes_32, 32};
#endif
  return {};
}

struct Bench {
  std::unique_ptr<Kernels> kernels;
  std::unique_ptr<Team> team;  // for the limits
  std::vector<char> memory;    // what the bandwidth test reads, and raw weights are cut from
  // One thread is timed by its own processor time, which does not run while somebody else has the core.
  clockid_t clock;
  int rounds;
  std::vector<float> scales = std::vector<float>(200'000, 0.01f);

  double bandwidth() {  // bytes per second
    std::vector<std::uint64_t> sums(team->size());
    const auto* words = reinterpret_cast<const Words*>((reinterpret_cast<std::uintptr_t>(memory.data()) + 63) & ~63ull);
    const std::size_t pieces = team->size() * 16;
    const std::size_t count = kMemoryBytes / sizeof(Words) / pieces;
    const double seconds = seconds_of(clock, [&] {
      team->run(pieces,
                [&](std::size_t piece, std::size_t member) { read_all(words + piece * count, count, &sums[member]); });
    });
    return double(count * pieces * sizeof(Words)) / seconds;
  }

  double peak_flops() { return peak_of(peak_loop_of(kernels->name())); }

  double peak_of(const PeakLoop& loop) {
    const std::size_t kTimes = loop.width > 64 ? 100'000 : 2'000'000;
    std::vector<float> results(team->size() * 16);
    const double seconds = seconds_of(clock, [&] {
      team->run(team->size(), [&](std::size_t piece, std::size_t) { loop.run(kTimes, &results[piece * 16]); });
    });
    return 2.0 * double(team->size() * kTimes * kChains * loop.width) / seconds;
  }

  // One matrix after another, so many that the caches hold none of the next.
  void gemv(DType dtype, std::size_t outs, std::size_t cols) {
    std::vector<std::unique_ptr<PackedWeight>> weights;
    std::size_t bytes = 0;
    while (bytes < kMemoryBytes) {
      weights.push_back(kernels->pack({memory.data(), dtype, outs, cols, cols}).value());
      bytes += weights.back()->bytes();
    }
    const std::vector<float> in(cols, 1.0f);
    std::vector<float> out(outs);
    std::vector<double> ratios, rates;
    for (int round = 0; round < rounds; ++round) {
      const double limit = bandwidth();
      const double seconds = seconds_of(clock, [&] {
        for (const auto& weight : weights) {
          kernels->linear({in.data(), 1, cols}, {weight.get()}, {out.data(), 1, outs});
        }
      });
      rates.push_back(double(bytes) / seconds);
      ratios.push_back(rates.back() / limit);
    }
    std::printf("gemv  %-4s %5zu x %-5zu  %6.1f GB/s     %.2f of read bandwidth\n", name_of(dtype), outs, cols,
                median(rates) / 1e9, median(ratios));
  }

  void gemm(DType dtype, std::size_t rows, std::size_t outs, std::size_t cols) {
    const auto weight = kernels->pack({memory.data(), dtype, outs, cols, cols}).value();
    const std::vector<float> in(rows * cols, 1.0f);
    std::vector<float> out(rows * outs);
    const double operations = 2.0 * double(rows * outs * cols);
    std::vector<double> ratios, rates;
    for (int round = 0; round < rounds; ++round) {
      const double limit = peak_flops();
      const double seconds = seconds_of(clock, [&] {
        kernels->linear({in.data(), rows, cols}, {weight.get()}, {out.data(), rows, outs});
      });
      rates.push_back(operations / seconds);
      ratios.push_back(rates.back() / limit);
    }
    std::printf("gemm  %-4s %5zu x %-5zu  %6.1f Gflop/s  %.2f of peak, %zu rows\n", name_of(dtype), outs, cols,
                median(rates) / 1e9, median(ratios), rows);
  }

  // Decoding one token each of `sequences`, with all their pages beyond the caches.
  void attention(DType dtype, std::size_t sequences, std::size_t context) {
    constexpr std::size_t kHeads = 16, kKvHeads = 4, kHeadDim = 64, kBlock = 16;
    const std::size_t page_bytes = sequences * context * kKvHeads * kHeadDim * size_of(dtype);
    if (2 * page_bytes > memory.size()) return;
    PagedKv kv;
    kv.keys = memory.data();
    kv.values = memory.data() + page_bytes;
    kv.dtype = dtype;
    kv.num_blocks = sequences * context / kBlock;
    kv.block_size = kBlock;
    kv.num_kv_heads = kKvHeads;
    kv.head_dim = kHeadDim;
    std::vector<float> scales(kv.slots() * kKvHeads, 0.01f);
    kv.key_scales = kv.value_scales = scales.data();
    std::vector<std::uint32_t> row_starts(sequences + 1), contexts(sequences, std::uint32_t(context)),
        blocks(kv.num_blocks), starts(sequences + 1);
    for (std::size_t i = 0; i <= sequences; ++i) {
      row_starts[i] = std::uint32_t(i);
      starts[i] = std::uint32_t(i * context / kBlock);
    }
    for (std::size_t i = 0; i < blocks.size(); ++i) blocks[i] = std::uint32_t(i);
    const std::vector<float> queries(sequences * kHeads * kHeadDim, 0.1f);
    std::vector<float> out(queries.size());
    const AttentionShape shape = {kHeads, kKvHeads, kHeadDim, 0.125f, 0};
    std::vector<double> ratios, rates;
    for (int round = 0; round < rounds; ++round) {
      const double limit = bandwidth();
      const double seconds = seconds_of(clock, [&] {
        kernels->begin_step({.attention = {row_starts, contexts, blocks, starts}, .shapes = {&shape, 1}});
        kernels->attention({queries.data(), sequences, kHeads * kHeadDim}, kv, 0,
                           {out.data(), sequences, kHeads * kHeadDim});
      });
      rates.push_back(2.0 * double(page_bytes) / seconds);
      ratios.push_back(rates.back() / limit);
    }
    std::printf("attend %-4s %3zu x %-6zu   %6.1f GB/s     %.2f of read bandwidth, 4 heads a KV head\n", name_of(dtype),
                sequences, context, median(rates) / 1e9, median(ratios));
  }

  // Any bytes are a weight; their values do not change how long it takes.
  WeightView quantised(DType dtype, std::size_t outs, std::size_t cols) {
    const auto aligned = (reinterpret_cast<std::uintptr_t>(memory.data()) + 63) & ~std::uintptr_t{63};
    const std::size_t whole = (cols + block_elements(dtype) - 1) / block_elements(dtype) * block_elements(dtype);
    return {reinterpret_cast<const void*>(aligned), dtype, outs, whole, whole, scales.data()};
  }

  // One row, as gemv above; then rows of a batch and of a prompt, on as many matrices as there are in a model's layers.
  void quantised_products(DType dtype, std::size_t outs, std::size_t cols) {
    const WeightView view = quantised(dtype, outs, cols);
    std::vector<std::unique_ptr<PackedWeight>> weights;
    std::size_t bytes = 0;
    // Our own formats lie beside each other in memory as in a file, GGUF's where pack puts them.
    for (std::size_t offset = 0; bytes < kMemoryBytes / 4;) {
      WeightView next = view;
      if (is_panel_format(dtype)) next.data = static_cast<const char*>(view.data) + offset;
      weights.push_back(kernels->pack(next, 0).value());
      offset += matrix_bytes(dtype, outs, view.cols);
      bytes += weights.back()->bytes();
      if (offset + matrix_bytes(dtype, outs, view.cols) > kMemoryBytes) break;
    }
    for (const std::size_t rows : {1, 16, 64, 512}) {
      if (rows > 16 && outs > 100'000) continue;  // logits are of one row a sequence
      const std::vector<float> in(rows * view.cols, 1.0f);
      std::vector<float> out(rows * outs);
      const std::size_t count = rows == 1 ? weights.size() : std::min<std::size_t>(weights.size(), 1 + 128 / rows);
      std::vector<double> ratios, rates;
      for (int round = -1; round < rounds; ++round) {
        const double limit = rows == 1 ? bandwidth() : peak_of(byte_peak_loop_of(kernels->name()));
        const double seconds = seconds_of(clock, [&] {
          for (std::size_t i = 0; i < count; ++i) {
            kernels->linear({in.data(), rows, view.cols}, {weights[i].get()}, {out.data(), rows, outs});
          }
        });
        if (round < 0) continue;  // what the first call allocates
        const double read = double(bytes) * double(count) / double(weights.size());
        rates.push_back((rows == 1 ? read : 2.0 * double(count * rows * outs * view.cols)) / seconds);
        ratios.push_back(rates.back() / limit);
      }
      std::printf("%-5s %6zu x %-5zu  %3zu rows  %7.1f %s  %.2f of %s\n", name_of(dtype), outs, view.cols, rows,
                  median(rates) / 1e9, rows == 1 ? "GB/s " : "GOP/s", median(ratios),
                  rows == 1 ? "read bandwidth" : "byte product peak");
    }
  }

  static const char* name_of(DType dtype) {
    switch (dtype) {
      case DType::kQ8_0: return "q8_0";
      case DType::kQ4_0: return "q4_0";
      case DType::kQ5_0: return "q5_0";
      case DType::kQ4_K: return "q4_k";
      case DType::kQ5_K: return "q5_k";
      case DType::kQ6_K: return "q6_k";
      case DType::kInt8: return "int8";
      case DType::kInt4: return "int4";
      case DType::kI8: return "i8";
      case DType::kE4M3: return "e4m3";
      default: break;
    }
    return dtype == DType::kF32 ? "f32" : dtype == DType::kF16 ? "f16" : "bf16";
  }
};

}  // namespace

int main(int argc, char** argv) {
  const std::string implementation = argc > 1 ? argv[1] : "";
  const int threads = argc > 2 ? std::max(1, std::atoi(argv[2])) : 1;
  const int rounds = argc > 3 ? std::max(1, std::atoi(argv[3])) : 7;
  std::vector<int> cores;
  for (int core = 0; core < threads; ++core) cores.push_back(core);

  auto kernels = make_cpu_kernels({cores, implementation});
  auto team = Team::make(cores);
  if (!kernels.ok() || !team.ok()) {
    std::fprintf(stderr, "kernels_bench: %s\n", (kernels.ok() ? team.error() : kernels.error()).message.c_str());
    return 2;
  }
  if (const auto pinned = pin_this_thread(cores[0]); !pinned.ok()) {
    std::fprintf(stderr, "kernels_bench: %s\n", pinned.error().message.c_str());
    return 2;
  }
  Bench bench{std::move(*kernels), std::move(*team), std::vector<char>(kMemoryBytes + 64),
              threads == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, rounds};
  // Ordinary numbers in every storage type: no infinities or subnormals to slow the arithmetic down.
  std::mt19937 engine(1);
  for (std::size_t i = 0; i < bench.memory.size() / 2; ++i) {
    const float value = float(engine() % 1024) / 1024.0f + 0.25f;
    store_from_f32(value, bench.memory.data(), DType::kBF16, i);
  }

  std::vector<double> bandwidths, peaks;
  for (int round = 0; round < rounds; ++round) {
    bandwidths.push_back(bench.bandwidth());
    peaks.push_back(bench.peak_flops());
  }
  std::printf("%s, %d thread(s), median of %d: reads %.1f GB/s, multiplies and adds %.1f Gflop/s\n",
              std::string(bench.kernels->name()).c_str(), threads, rounds, median(bandwidths) / 1e9,
              median(peaks) / 1e9);
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const std::string_view part = argc > 4 ? argv[4] : "";
  if (part != "float") {
    std::vector<double> byte_peaks;
    for (int round = 0; round < rounds; ++round) {
      byte_peaks.push_back(bench.peak_of(byte_peak_loop_of(bench.kernels->name())));
    }
    std::printf("products of bytes: %.1f GOP/s\n", median(byte_peaks) / 1e9);
    for (const DType dtype : {DType::kQ8_0, DType::kQ4_0, DType::kQ5_0, DType::kQ4_K, DType::kQ5_K, DType::kQ6_K,
                              DType::kInt8, DType::kInt4}) {
      bench.quantised_products(dtype, 896, 896);
      bench.quantised_products(dtype, 4864, 896);
      bench.quantised_products(dtype, 896, 4864);
      bench.quantised_products(dtype, 151'936, 896);
    }
  }
  if (part == "quantised") return 0;
  for (const DType dtype : {DType::kBF16, DType::kF16, DType::kF32}) {
    bench.gemv(dtype, 4096, 4096);
    bench.gemv(dtype, 576, 1536);
    bench.gemm(dtype, 128, 2048, 2048);
  }
  bench.gemm(DType::kBF16, 8, 2048, 2048);
  bench.attention(DType::kF32, 16, 4096);
  bench.attention(DType::kBF16, 16, 4096);
  bench.attention(DType::kI8, 16, 4096);
  bench.attention(DType::kE4M3, 16, 4096);
  bench.attention(DType::kBF16, 1, 4096);
}
