#include "cluster/roofline.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#include <sys/syscall.h>
#endif

namespace troupe::cluster {
namespace {

constexpr std::size_t kPieceBytes = std::size_t{4} << 20;  // handed to a core at a time
constexpr std::size_t kPiecesACore = 8;                    // of arithmetic: a few milliseconds each

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// So much that no cache holds what the next pass begins with, but not all that the machine has.
std::size_t memory_to_read() {
  constexpr std::size_t kLeast = std::size_t{256} << 20;
  const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
  const std::size_t wanted = std::max<std::size_t>(kLeast, cache > 0 ? 4 * static_cast<std::size_t>(cache) : 0);
  const std::size_t all = static_cast<std::size_t>(sysconf(_SC_PHYS_PAGES)) * sysconf(_SC_PAGESIZE);
  return std::max(kLeast / 4, std::min(wanted, all / 8)) / kPieceBytes * kPieceBytes;
}

using Words = std::uint64_t __attribute__((vector_size(64)));

#if defined(__x86_64__)
#define TROUPE_WIDEST_VECTORS __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define TROUPE_WIDEST_VECTORS
#endif

// Two sums, because with more the narrowest vectors run out of registers; the loads do not wait for them.
TROUPE_WIDEST_VECTORS std::uint64_t read_piece(const std::byte* piece) {
  const auto* words = reinterpret_cast<const Words*>(piece);
  Words sums[2] = {};
  for (std::size_t i = 0; i < kPieceBytes / sizeof(Words); i += 2) {
    sums[0] += words[i];
    sums[1] += words[i + 1];
  }
  const Words sum = sums[0] + sums[1];
  return sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}

// A loop over independent chains of multiply-adds in registers. `operations` are those of one round.
struct PeakLoop {
  void (*run)(std::size_t rounds);
  double operations;
  std::size_t rounds;  // of a piece
};

constexpr std::size_t kChains = 12;  // hide the latency of two units

void multiply_add_scalar(std::size_t rounds) {
  float sums[kChains] = {};
  for (std::size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (float& sum : sums) sum = sum * 0.5f + 1e-9f;
  }
  for (const float sum : sums) [[maybe_unused]] volatile const float seen = sum;
}

#if defined(__x86_64__)

// What a chain holds is given to an empty asm, so that the compiler can neither drop nor merge a step of it.
__attribute__((target("avx512f"))) void multiply_add_avx512(std::size_t rounds) {
  const __m512 factor = _mm512_set1_ps(0.5f), addend = _mm512_set1_ps(1e-9f);
  __m512 sums[kChains] = {};
  for (std::size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (__m512& sum : sums) {
      sum = _mm512_fmadd_ps(sum, factor, addend);
      __asm__ volatile("" : "+v"(sum));
    }
  }
}

__attribute__((target("avx2,fma"))) void multiply_add_avx2(std::size_t rounds) {
  const __m256 factor = _mm256_set1_ps(0.5f), addend = _mm256_set1_ps(1e-9f);
  __m256 sums[kChains] = {};
  for (std::size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (__m256& sum : sums) {
      sum = _mm256_fmadd_ps(sum, factor, addend);
      __asm__ volatile("" : "+x"(sum));
    }
  }
}

__attribute__((target("avx512f,avx512vnni"))) void dot_int8_avx512(std::size_t rounds) {
  const __m512i left = _mm512_set1_epi8(1), right = _mm512_set1_epi8(2);
  __m512i sums[kChains] = {};
  for (std::size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (__m512i& sum : sums) {
      sum = _mm512_dpbusd_epi32(sum, left, right);
      __asm__ volatile("" : "+v"(sum));
    }
  }
}

__attribute__((target("avx512f,avx512bf16"))) void dot_bf16_avx512(std::size_t rounds) {
  const __m512 pairs = _mm512_castsi512_ps(_mm512_set1_epi16(0x3f00));  // 0.5
  const __m512bh factor = (__m512bh)pairs;
  __m512 sums[kChains] = {};
  for (std::size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (__m512& sum : sums) {
      sum = _mm512_dpbf16_ps(sum, factor, factor);
      __asm__ volatile("" : "+v"(sum));
    }
  }
}

// Without VNNI a dot product of bytes takes three instructions.
__attribute__((target("avx2"))) void dot_int8_avx2(std::size_t rounds) {
  const __m256i left = _mm256_set1_epi8(1), right = _mm256_set1_epi8(2), ones = _mm256_set1_epi16(1);
  __m256i sums[kChains] = {};
  for (std::size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (__m256i& sum : sums) {
      __m256i pairs = _mm256_maddubs_epi16(left, right);
      __asm__ volatile("" : "+x"(pairs));
      sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
      __asm__ volatile("" : "+x"(sum));
    }
  }
}

// 64 bytes, as the processor reads them.
struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

__attribute__((target("amx-tile"))) void load_zeros_into_tiles() {
  // Static: GCC sees the instruction read the first eight bytes only, and would leave out the others.
  static constexpr TileConfig config;
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
}

// Four sums of 16 x 16 out of tiles that hold zeros: tile instructions take as long whatever they multiply.
__attribute__((target("amx-tile,amx-int8"))) void tiles_int8(std::size_t rounds) {
  load_zeros_into_tiles();
  for (std::size_t i = 0; i < rounds; ++i) {
    _tile_dpbssd(0, 4, 6);
    _tile_dpbssd(1, 4, 7);
    _tile_dpbssd(2, 5, 6);
    _tile_dpbssd(3, 5, 7);
  }
  _tile_release();
}

__attribute__((target("amx-tile,amx-bf16"))) void tiles_bf16(std::size_t rounds) {
  load_zeros_into_tiles();
  for (std::size_t i = 0; i < rounds; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_release();
}

// The kernel gives a process the tile registers only when it asks.
bool has_tiles() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  return __builtin_cpu_supports("amx-tile") && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

#endif

double operations_a_second(kernels::Team& team, const PeakLoop& loop) {
  const std::size_t pieces = team.size() * kPiecesACore;
  const auto start = std::chrono::steady_clock::now();
  team.run(pieces, [&](std::size_t, std::size_t) { loop.run(loop.rounds); });
  return loop.operations * static_cast<double>(loop.rounds * pieces) / seconds_since(start);
}

}  // namespace

Result<std::unique_ptr<Roofline>> Roofline::make(const std::vector<int>& cores) {
  std::unique_ptr<Roofline> roofline(new Roofline);
  TROUPE_ASSIGN_OR_RETURN(roofline->team_, kernels::Team::make(cores));
  const std::size_t bytes = memory_to_read();
  void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) {
    return resource_exhausted("the system does not give " + std::to_string(bytes) +
                              " bytes to measure the read bandwidth with");
  }
  roofline->memory_ = static_cast<std::byte*>(memory);
  roofline->memory_bytes_ = bytes;
  // A bound is what the memory gives, not what walking page tables leaves of it. Without huge pages it still holds.
  static_cast<void>(::madvise(memory, bytes, MADV_HUGEPAGE));
  roofline->team_->run(bytes / kPieceBytes, [&](std::size_t piece, std::size_t) {
    std::memset(roofline->memory_ + piece * kPieceBytes, 1, kPieceBytes);
  });
  return roofline;
}

Roofline::~Roofline() {
  if (memory_ != nullptr) ::munmap(memory_, memory_bytes_);
}

double Roofline::read_bandwidth() {
  std::vector<std::uint64_t> sums(team_->size() * 8);  // a cache line each
  const auto start = std::chrono::steady_clock::now();
  team_->run(memory_bytes_ / kPieceBytes, [&](std::size_t piece, std::size_t member) {
    sums[member * 8] ^= read_piece(memory_ + piece * kPieceBytes);
  });
  const double seconds = seconds_since(start);
  __asm__ volatile("" : : "r"(sums.data()) : "memory");  // somebody looks at the sums
  return static_cast<double>(memory_bytes_) / seconds;
}

MultiplyAddPeaks Roofline::peaks() {
  constexpr std::size_t kRounds = 1'000'000;
  MultiplyAddPeaks peaks;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) {
    peaks.fp32 = operations_a_second(*team_, {multiply_add_avx512, 2.0 * 16 * kChains, kRounds});
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    peaks.fp32 = operations_a_second(*team_, {multiply_add_avx2, 2.0 * 8 * kChains, kRounds});
  }
  if (__builtin_cpu_supports("avx512vnni")) {
    peaks.int8 = operations_a_second(*team_, {dot_int8_avx512, 2.0 * 64 * kChains, kRounds});
  } else if (__builtin_cpu_supports("avx2")) {
    peaks.int8 = operations_a_second(*team_, {dot_int8_avx2, 2.0 * 32 * kChains, kRounds});
  }
  if (__builtin_cpu_supports("avx512bf16")) {
    peaks.bf16 = operations_a_second(*team_, {dot_bf16_avx512, 2.0 * 32 * kChains, kRounds});
  }
  if (has_tiles()) {
    constexpr double kTileProducts = 4.0 * 16 * 16;
    if (__builtin_cpu_supports("amx-int8")) {
      peaks.amx_int8 = operations_a_second(*team_, {tiles_int8, 2.0 * 64 * kTileProducts, kRounds / 10});
    }
    if (__builtin_cpu_supports("amx-bf16")) {
      peaks.amx_bf16 = operations_a_second(*team_, {tiles_bf16, 2.0 * 32 * kTileProducts, kRounds / 10});
    }
  }
#endif
  if (peaks.fp32 == 0) peaks.fp32 = operations_a_second(*team_, {multiply_add_scalar, 2.0 * kChains, kRounds});
  return peaks;
}

}  // namespace troupe::cluster
