// What bounds products of quantised blocks on AMX. Every block of 32 inputs has a scale of its own, so that each
// product of a tile must leave the matrix registers before it can be scaled and summed. This measures the parts of that
// in turn, from the first-level cache, and then the product as Kernels makes it; medians over rounds, one core.
//
//   amx_bench [ROUNDS]

#include <cstdio>

#include "kernels/select.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <time.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <random>
#include <vector>

#include "kernels/cpu/team.h"
#include "kernels/quant.h"

using namespace troupe::kernels;

namespace {

constexpr std::size_t kRows = 16;
constexpr std::size_t kBlocks = 28;  // of 32 inputs: 896
constexpr std::size_t kTimes = 10'000;
constexpr double kOperations = 2.0 * 16 * 16 * 32;  // of a block

struct alignas(64) Memory {
  std::int8_t inputs[kBlocks / 2][kRows][64];
  std::int8_t weights[kBlocks][8][64];
  std::int32_t products[4][kRows][16];
  float scales[kBlocks][16];
  float sums[kRows][16];
};

double seconds_of(const std::function<void()>& work) {
  timespec start, end;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
  work();
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &end);
  return double(end.tv_sec - start.tv_sec) + 1e-9 * double(end.tv_nsec - start.tv_nsec);
}

__attribute__((target("amx-tile"))) void configure() {
  alignas(64) std::uint8_t config[64] = {1};
  for (int tile = 0; tile < 8; ++tile) {
    config[16 + 2 * tile] = tile == 4 || tile == 5 ? 32 : 64;
    config[48 + tile] = tile >= 6 ? 8 : 16;
  }
  asm volatile("" ::: "memory");  // GCC 12's intrinsic does not say that it reads all of this
  _tile_loadconfig(config);
}

// Loads and products.
__attribute__((target("amx-tile,amx-int8"))) void multiply(Memory& memory) {
  for (std::size_t block = 0; block < kBlocks; block += 2) {
    _tile_zero(0);
    _tile_loadd(4, &memory.inputs[block / 2][0][0], 64);
    _tile_loadd(6, memory.weights[block], 64);
    _tile_dpbssd(0, 4, 6);
    _tile_zero(1);
    _tile_loadd(5, &memory.inputs[block / 2][0][32], 64);
    _tile_loadd(7, memory.weights[block + 1], 64);
    _tile_dpbssd(1, 5, 7);
  }
}

// The same, and each product's way to the first-level cache.
__attribute__((target("amx-tile,amx-int8"))) void multiply_and_store(Memory& memory) {
  for (std::size_t block = 0; block < kBlocks; block += 2) {
    _tile_zero(0);
    _tile_loadd(4, &memory.inputs[block / 2][0][0], 64);
    _tile_loadd(6, memory.weights[block], 64);
    _tile_dpbssd(0, 4, 6);
    _tile_stored(0, memory.products[block % 4], 64);
    _tile_zero(1);
    _tile_loadd(5, &memory.inputs[block / 2][0][32], 64);
    _tile_loadd(7, memory.weights[block + 1], 64);
    _tile_dpbssd(1, 5, 7);
    _tile_stored(1, memory.products[block % 4 + 1], 64);
  }
}

// What is left to do with products: to float, times both scales, added up.
__attribute__((target("avx512f"))) void scale(Memory& memory) {
  __m512 sums[kRows];
#pragma GCC unroll 16
  for (auto& sum : sums) sum = _mm512_setzero_ps();
  for (std::size_t block = 0; block < kBlocks; ++block) {
    const __m512 of_weights = _mm512_load_ps(memory.scales[block]);
    const auto& products = memory.products[block % 4];
#pragma GCC unroll 16
    for (std::size_t row = 0; row < kRows; ++row) {
      const __m512 both = _mm512_mul_ps(of_weights, _mm512_set1_ps(memory.scales[block][row]));
      sums[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(products[row])), both, sums[row]);
    }
  }
#pragma GCC unroll 16
  for (std::size_t row = 0; row < kRows; ++row) _mm512_store_ps(memory.sums[row], sums[row]);
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

int run(int rounds) {
  auto kernels = make_cpu_kernels({{0}, "amx"});
  if (!kernels.ok()) {
    std::fprintf(stderr, "amx_bench: %s\n", kernels.error().message.c_str());
    return 2;
  }
  if (const auto pinned = pin_this_thread(0); !pinned.ok()) {
    std::fprintf(stderr, "amx_bench: %s\n", pinned.error().message.c_str());
    return 2;
  }
  std::mt19937 engine(1);
  auto memory = std::make_unique<Memory>();
  for (auto& of_chunk : memory->inputs) {
    for (auto& line : of_chunk) std::ranges::generate(line, [&] { return std::int8_t(engine()); });
  }
  for (auto& of_block : memory->weights) {
    for (auto& line : of_block) std::ranges::generate(line, [&] { return std::int8_t(engine()); });
  }
  for (auto& of_block : memory->scales) std::ranges::generate(of_block, [&] { return float(engine() % 100) / 1e3f; });

  // Q8_0, as many rows and outputs as a prompt and a layer have; the blocks' bytes are also the scales, which are then
  // ordinary numbers.
  constexpr std::size_t kCalls = 8, kPrompt = 512, kOuts = 4864, kCols = kBlocks * 32;
  std::vector<std::uint8_t> bytes(matrix_bytes(DType::kQ8_0, kOuts, kCols));
  std::ranges::generate(bytes, [&] { return std::uint8_t(engine() % 64); });
  const auto weight = (*kernels)->pack({bytes.data(), DType::kQ8_0, kOuts, kCols, kCols}).value();
  std::vector<float> in(kPrompt * kCols), out(kPrompt * kOuts);
  std::ranges::generate(in, [&] { return float(engine() % 1000) / 500 - 1; });

  std::vector<double> products, stored, scaled, whole, shares;
  const auto ns_a_block = [&](void (*part)(Memory&)) {
    const double seconds = seconds_of([&] {
      for (std::size_t time = 0; time < kTimes; ++time) part(*memory);
    });
    return seconds / double(kTimes * kBlocks) * 1e9;
  };
  for (int round = -1; round < rounds; ++round) {
    configure();
    const double product_ns = ns_a_block(multiply), stored_ns = ns_a_block(multiply_and_store);
    const double scale_ns = ns_a_block(scale);
    const double seconds = seconds_of([&] {
      for (std::size_t call = 0; call < kCalls; ++call) {
        (*kernels)->linear({in.data(), kPrompt, kCols}, {weight.get()}, {out.data(), kPrompt, kOuts});
      }
    });
    if (round < 0) continue;  // what the first call allocates
    const double whole_ns = seconds / (double(kCalls * kPrompt / kRows) * double(kOuts / 16) * kBlocks) * 1e9;
    products.push_back(product_ns);
    stored.push_back(stored_ns);
    scaled.push_back(scale_ns);
    whole.push_back(whole_ns);
    shares.push_back((stored_ns + scale_ns) / whole_ns);
  }
  const auto print = [](const char* what, double ns) {
    std::printf("%-44s %5.1f ns a block, %6.0f GOP/s\n", what, ns, kOperations / ns);
  };
  std::printf("one core, blocks of 16 rows, 32 inputs, 16 outputs; median of %d\n", rounds);
  print("products", median(products));
  print("products, stored", median(stored));
  print("scaling and summing stored products", median(scaled));
  print("Q8_0, 512 rows, 4864 x 896, all that it takes", median(whole));
  std::printf("share of stored products and scaling, one after the other: %.2f\n", median(shares));
  return 0;
}

}  // namespace

int main(int argc, char** argv) { return run(argc > 1 ? std::max(1, std::atoi(argv[1])) : 9); }

#else

int main() {
  std::fprintf(stderr, "amx_bench: not a processor with AMX\n");
  return 2;
}

#endif
