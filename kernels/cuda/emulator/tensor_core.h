#pragma once

#include "kernels/cuda/emulator/simt.h"

// kernels/cuda/tensor_core.h, emulated. Products of 16-bit numbers are summed up in double and rounded once: hardware
// loses a little more, in an order that it does not tell.

namespace troupe::kernels::emulated {

template <class D>
struct Product {
  D* d;                    // (4)
  const std::uint32_t* a;  // (4)
  const std::uint32_t* b;  // (2)
};

// The product of a whole warp, by the layouts of kernels/cuda/tensor_core.h. Value turns the bits of an element into a
// number; an element has 32 / per_word bits.
template <class D, class Sum, class Value>
void multiply_fragments(void* const* operands, unsigned per_word, const Value& value) {
  const unsigned depth = 8 * per_word, bits = 32 / per_word;
  const auto product = [&](unsigned lane) -> const Product<D>& { return *static_cast<Product<D>*>(operands[lane]); };
  Sum a[16][32], b[32][8];
  for (unsigned lane = 0; lane < 32; ++lane) {
    const unsigned group = lane / 4, first = lane % 4 * per_word;
    for (unsigned j = 0; j < per_word; ++j) {
      const auto element = [&](std::uint32_t word) { return value(word >> bits * j & ((1u << bits) - 1)); };
      for (unsigned i = 0; i < 4; ++i) {
        a[group + 8 * (i % 2)][first + j + depth / 2 * (i / 2)] = element(product(lane).a[i]);
      }
      for (unsigned i = 0; i < 2; ++i) b[first + j + depth / 2 * i][group] = element(product(lane).b[i]);
    }
  }
  for (unsigned lane = 0; lane < 32; ++lane) {
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = lane / 4 + 8 * (i / 2), col = lane % 4 * 2 + i % 2;
      Sum sum = product(lane).d[i];
      for (unsigned k = 0; k < depth; ++k) sum += a[row][k] * b[k][col];
      product(lane).d[i] = static_cast<D>(sum);
    }
  }
}

inline void mma_m16n8k16_bf16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  Product<float> operand = {d, a, b};
  warp_operation(
      [](void* const* operands, std::uint32_t) {
        multiply_fragments<float, double>(
            operands, 2, [](std::uint32_t bits) { return double{f32_of_bf16(static_cast<std::uint16_t>(bits))}; });
      },
      0xffffffff, &operand);
}

inline void mma_m16n8k16_f16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  Product<float> operand = {d, a, b};
  warp_operation(
      [](void* const* operands, std::uint32_t) {
        multiply_fragments<float, double>(
            operands, 2, [](std::uint32_t bits) { return double{f32_of_f16(static_cast<std::uint16_t>(bits))}; });
      },
      0xffffffff, &operand);
}

inline void mma_m16n8k32_s8(std::int32_t (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  Product<std::int32_t> operand = {d, a, b};
  warp_operation(
      [](void* const* operands, std::uint32_t) {
        multiply_fragments<std::int32_t, std::int32_t>(
            operands, 4, [](std::uint32_t bits) { return std::int32_t{static_cast<std::int8_t>(bits)}; });
      },
      0xffffffff, &operand);
}

struct MatrixLoad {
  const void* row;
  std::uint32_t* r;
};

template <unsigned kMatrices, bool kTransposed>
void load_matrices(std::uint32_t* r, const void* row) {
  MatrixLoad operand = {row, r};
  warp_operation(
      [](void* const* operands, std::uint32_t) {
        const auto load = [&](unsigned lane) -> const MatrixLoad& { return *static_cast<MatrixLoad*>(operands[lane]); };
        for (unsigned lane = 0; lane < 32; ++lane) {
          const unsigned group = lane / 4, first = lane % 4 * 2;
          for (unsigned i = 0; i < kMatrices; ++i) {
            const auto element = [&](unsigned row, unsigned col) {
              const auto* from = static_cast<const std::uint16_t*>(load(8 * i + row).row);
              assert(reinterpret_cast<std::uintptr_t>(from) % 16 == 0);
              return std::uint32_t{from[col]};
            };
            load(lane).r[i] = kTransposed ? element(first, group) | element(first + 1, group) << 16
                                          : element(group, first) | element(group, first + 1) << 16;
          }
        }
      },
      0xffffffff, &operand);
}

inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* row) { load_matrices<4, false>(r, row); }
inline void ldmatrix_x2(std::uint32_t (&r)[2], const void* row) { load_matrices<2, false>(r, row); }
inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row) { load_matrices<4, true>(r, row); }

inline void cp_async_16(void* shared, const void* global, bool is_valid) {
  assert(reinterpret_cast<std::uintptr_t>(shared) % 16 == 0);
  assert(!is_valid || reinterpret_cast<std::uintptr_t>(global) % 16 == 0);
  start_copy(shared, global, 16, is_valid);
}
inline void cp_async_commit() { end_copy_group(); }
template <int kPending>
void cp_async_wait() {
  wait_for_copy_groups(kPending);
}

}  // namespace troupe::kernels::emulated
