#pragma once

// The CUDA C++ that kernels use, as C++: kernels/cuda/simt.h includes this under TROUPE_EMULATE_GPU.

#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <tuple>
#include <utility>

#include "kernels/cuda/emulator/grid.h"
#include "kernels/cuda/emulator/numbers.h"

#define TROUPE_GPU_NAMESPACE emulated

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(bytes) __attribute__((aligned(bytes)))

#define threadIdx (::troupe::kernels::emulated::thread_index())
#define blockIdx (::troupe::kernels::emulated::block_index())
#define blockDim (::troupe::kernels::emulated::block_size())
#define gridDim (::troupe::kernels::emulated::grid_size())
#define warpSize 32

#define TROUPE_DYNAMIC_SHARED(type, name) \
  type* const name = reinterpret_cast<type*>(::troupe::kernels::emulated::dynamic_shared())

namespace troupe::kernels::emulated {

template <class... Params, class... Args>
void launch(Stream stream, Grid grid, Block block, std::size_t dynamic_shared_bytes, void (*kernel)(Params...),
            Args&&... args) {
  assert(stream.is_emulated);
  auto& to = *static_cast<EmulatedStream*>(stream.handle);
  to.run([=, &to, params = std::tuple<Params...>(static_cast<Params>(std::forward<Args>(args))...)] {
    run_grid(to, grid, block, dynamic_shared_bytes, [&] { std::apply(kernel, params); });
  });
}

inline void __syncthreads() { block_barrier(); }

inline void __syncwarp(unsigned mask = 0xffffffff) {
  warp_operation([](void* const*, std::uint32_t) {}, mask, nullptr);
}

template <class T>
struct Shuffle {
  T value;
  unsigned source;  // lane
  T result;
};

template <class T>
T shuffle(unsigned mask, T value, unsigned source) {
  Shuffle<T> operand = {value, source, value};
  warp_operation(
      [](void* const* operands, std::uint32_t mask) {
        for (unsigned lane = 0; lane < 32; ++lane) {
          if ((mask >> lane & 1) == 0) continue;
          auto& to = *static_cast<Shuffle<T>*>(operands[lane]);
          // A lane that takes no part has nothing to give: what CUDA leaves undefined.
          assert((mask >> to.source & 1) != 0);
          to.result = static_cast<Shuffle<T>*>(operands[to.source])->value;
        }
      },
      mask, &operand);
  return operand.result;
}

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const unsigned lane = lane_index(), segment = static_cast<unsigned>(width);
  return shuffle(mask, value, lane / segment * segment + static_cast<unsigned>(source) % segment);
}

template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const unsigned lane = lane_index(), source = lane ^ static_cast<unsigned>(bits),
                 segment = static_cast<unsigned>(width);
  // As CUDA has it: a source in a later segment is none.
  return shuffle(mask, value, source / segment > lane / segment ? lane : source);
}

template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = lane_index(), segment = static_cast<unsigned>(width);
  return shuffle(mask, value, lane % segment + delta < segment ? lane + delta : lane);
}

template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
  const unsigned lane = lane_index(), segment = static_cast<unsigned>(width);
  return shuffle(mask, value, lane % segment >= delta ? lane - delta : lane);
}

struct Ballot {
  bool vote;
  unsigned votes;
};

inline unsigned __ballot_sync(unsigned mask, int vote) {
  Ballot operand = {vote != 0, 0};
  warp_operation(
      [](void* const* operands, std::uint32_t mask) {
        unsigned votes = 0;
        for (unsigned lane = 0; lane < 32; ++lane) {
          if ((mask >> lane & 1) != 0) votes |= unsigned{static_cast<Ballot*>(operands[lane])->vote} << lane;
        }
        for (unsigned lane = 0; lane < 32; ++lane) {
          if ((mask >> lane & 1) != 0) static_cast<Ballot*>(operands[lane])->votes = votes;
        }
      },
      mask, &operand);
  return operand.votes;
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) == mask; }

// One thread runs at a time: nothing comes between.
template <class T>
T atomicAdd(T* to, T value) {
  const T before = *to;
  *to = static_cast<T>(before + value);
  return before;
}
template <class T>
T atomicMax(T* to, T value) {
  const T before = *to;
  if (before < value) *to = value;
  return before;
}
template <class T>
T atomicMin(T* to, T value) {
  const T before = *to;
  if (value < before) *to = value;
  return before;
}
template <class T>
T atomicExch(T* to, T value) {
  const T before = *to;
  *to = value;
  return before;
}
template <class T>
T atomicCAS(T* to, T expected, T value) {
  const T before = *to;
  if (before == expected) *to = value;
  return before;
}
inline void __threadfence() {}

template <class T>
T __ldg(const T* from) {
  return *from;
}

}  // namespace troupe::kernels::emulated
