// How a panel's chunk of each format becomes quants, scales and mins in registers of a vector type V (see
// kernels/cpu/quantised_loops.h). The layouts are those that kernels/cpu/quantised_panels.cpp writes. Everything here
// has internal linkage, as in kernels/cpu/vector_loops.h.

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/quantised_ops.h"

namespace troupe::kernels {
namespace {

// Each format:
//   kBytes    of a chunk; kBlocks of 32 inputs in it
//   kWide     quants use all 8 bits (else at most 6, which pairs of products fit into 16 bits with)
//   kSubs     scales of a block: 1, or 2 for 16 inputs each
//   kMins     whether blocks have a min
//   kOffset   of the quants
// An object is one chunk: quants(block, w) fills the eight vectors of a block, each 4 inputs of 16 outputs.

template <class V>
[[gnu::always_inline]] inline void load_nibbles(const std::byte* from, typename V::Bytes (&quants)[8]) {
#pragma GCC unroll 4
  for (std::size_t i = 0; i < 4; ++i) {
    const auto both = V::load_bytes(from + 64 * i);
    quants[i] = V::lower_nibbles(both);
    quants[i + 4] = V::upper_nibbles(both);
  }
}

template <class V>
struct ChunkQ8_0 {
  static constexpr std::size_t kBytes = 1088, kBlocks = 2, kSubs = 1;
  static constexpr bool kWide = true, kMins = false;
  static constexpr int kOffset = 128;

  explicit ChunkQ8_0(const std::byte* chunk) : chunk_(chunk) {}
  [[gnu::always_inline]] void quants(std::size_t block, typename V::Bytes (&quants)[8]) const {
#pragma GCC unroll 8
    for (std::size_t i = 0; i < 8; ++i) quants[i] = V::load_bytes(chunk_ + 512 * block + 64 * i);
  }
  typename V::Floats scale(std::size_t block, std::size_t) const { return V::load_f16(chunk_ + 1024 + 32 * block); }

 private:
  const std::byte* chunk_;
};

// kInt4 as well.
template <class V>
struct ChunkQ4_0 {
  static constexpr std::size_t kBytes = 576, kBlocks = 2, kSubs = 1;
  static constexpr bool kWide = false, kMins = false;
  static constexpr int kOffset = 8;

  explicit ChunkQ4_0(const std::byte* chunk) : chunk_(chunk) {}
  [[gnu::always_inline]] void quants(std::size_t block, typename V::Bytes (&quants)[8]) const {
    load_nibbles<V>(chunk_ + 256 * block, quants);
  }
  typename V::Floats scale(std::size_t block, std::size_t) const { return V::load_f16(chunk_ + 512 + 32 * block); }

 private:
  const std::byte* chunk_;
};

// Chunks of K formats begin with their scales, which all of their blocks read: where memory is read in order, they are
// there in time. Of Q4_K and Q5_K: u8 scales (8, 16), u8 mins (8, 16), f16 d (16), f16 dmin (16).
constexpr std::size_t kScalesKBytes = 320;

template <class V>
struct ScalesK {
  explicit ScalesK(const std::byte* scales)
      : scales_(scales), d_(V::load_f16(scales + 256)), dmin_(V::load_f16(scales + 288)) {}
  typename V::Floats scale(std::size_t block, std::size_t) const {
    return V::mul(d_, V::load_u8(scales_ + 16 * block));
  }
  typename V::Floats min(std::size_t block) const { return V::mul(dmin_, V::load_u8(scales_ + 128 + 16 * block)); }

 private:
  const std::byte* scales_;
  typename V::Floats d_;
  typename V::Floats dmin_;
};

template <class V>
struct ChunkQ4_K : ScalesK<V> {
  static constexpr std::size_t kBytes = 2368, kBlocks = 8, kSubs = 1;
  static constexpr bool kWide = false, kMins = true;
  static constexpr int kOffset = 0;

  explicit ChunkQ4_K(const std::byte* chunk) : ScalesK<V>(chunk), quants_(chunk + kScalesKBytes) {}
  [[gnu::always_inline]] void quants(std::size_t block, typename V::Bytes (&quants)[8]) const {
    load_nibbles<V>(quants_ + 256 * block, quants);
  }

 private:
  const std::byte* quants_;
};

// 256 bytes of nibbles followed by 64 whose bit i is the fifth bit of that byte of vector i.
template <class V>
[[gnu::always_inline]] inline void load_fives(const std::byte* from, typename V::Bytes (&quants)[8]) {
  load_nibbles<V>(from, quants);
  const auto upper = V::load_bytes(from + 256);
  quants[0] = V::template join<4, 0x10>(quants[0], upper);
  quants[1] = V::template join<3, 0x10>(quants[1], upper);
  quants[2] = V::template join<2, 0x10>(quants[2], upper);
  quants[3] = V::template join<1, 0x10>(quants[3], upper);
  quants[4] = V::template join<0, 0x10>(quants[4], upper);
  quants[5] = V::template join<-1, 0x10>(quants[5], upper);
  quants[6] = V::template join<-2, 0x10>(quants[6], upper);
  quants[7] = V::template join<-3, 0x10>(quants[7], upper);
}

template <class V>
struct ChunkQ5_0 {
  static constexpr std::size_t kBytes = 704, kBlocks = 2, kSubs = 1;
  static constexpr bool kWide = false, kMins = false;
  static constexpr int kOffset = 16;

  explicit ChunkQ5_0(const std::byte* chunk) : chunk_(chunk) {}
  [[gnu::always_inline]] void quants(std::size_t block, typename V::Bytes (&quants)[8]) const {
    load_fives<V>(chunk_ + 320 * block, quants);
  }
  typename V::Floats scale(std::size_t block, std::size_t) const { return V::load_f16(chunk_ + 640 + 32 * block); }

 private:
  const std::byte* chunk_;
};

template <class V>
struct ChunkQ5_K : ScalesK<V> {
  static constexpr std::size_t kBytes = 2880, kBlocks = 8, kSubs = 1;
  static constexpr bool kWide = false, kMins = true;
  static constexpr int kOffset = 0;

  explicit ChunkQ5_K(const std::byte* chunk) : ScalesK<V>(chunk), quants_(chunk + kScalesKBytes) {}
  [[gnu::always_inline]] void quants(std::size_t block, typename V::Bytes (&quants)[8]) const {
    load_fives<V>(quants_ + 320 * block, quants);
  }

 private:
  const std::byte* quants_;
};

// A block's 256 bytes of nibbles are followed by twice 64, in which bits 2 i and 2 i + 1 of a byte are bits 4 and 5 of
// that byte of vectors i and i + 4. Before them: i8 scales (16, 16), f16 d (16), and 32 bytes unused.
template <class V>
struct ChunkQ6_K {
  static constexpr std::size_t kBytes = 3392, kBlocks = 8, kSubs = 2;
  static constexpr bool kWide = false, kMins = false;
  static constexpr int kOffset = 32;

  explicit ChunkQ6_K(const std::byte* chunk) : chunk_(chunk), d_(V::load_f16(chunk + 256)) {}
  [[gnu::always_inline]] void quants(std::size_t block, typename V::Bytes (&quants)[8]) const {
    const std::byte* from = chunk_ + kScalesKBytes + 384 * block;
    load_nibbles<V>(from, quants);
#pragma GCC unroll 2
    for (std::size_t half = 0; half < 2; ++half) {
      const auto upper = V::load_bytes(from + 256 + 64 * half);
      quants[4 * half] = V::template join<4, 0x30>(quants[4 * half], upper);
      quants[4 * half + 1] = V::template join<2, 0x30>(quants[4 * half + 1], upper);
      quants[4 * half + 2] = V::template join<0, 0x30>(quants[4 * half + 2], upper);
      quants[4 * half + 3] = V::template join<-2, 0x30>(quants[4 * half + 3], upper);
    }
  }
  typename V::Floats scale(std::size_t block, std::size_t sub) const {
    return V::mul(d_, V::load_i8(chunk_ + 32 * block + 16 * sub));
  }

 private:
  const std::byte* chunk_;
  typename V::Floats d_;
};

}  // namespace
}  // namespace troupe::kernels
