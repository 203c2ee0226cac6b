#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/cuda/gpu.h"
#include "kernels/kernels.h"

namespace troupe::bench {

// Ends the program with the error.
[[noreturn]] void give_up(std::string_view what, const Error& error);

template <class T>
T must(Result<T> result, std::string_view what) {
  if (!result.ok()) give_up(what, result.error());
  return std::move(result).value();
}
inline void must(Result<void> result, std::string_view what) {
  if (!result.ok()) give_up(what, result.error());
}

struct StepTime {
  double seconds = 0;      // of one of several in a row, none of which is waited for
  double gap_seconds = 0;  // in which the device has nothing to do between two of which each is waited for
};

// One GPU that is measured: its kernels, memory that is given back by scope, random numbers, clocks.
class Bench {
 public:
  // seconds: of the rounds of a measurement, after which no other round begins.
  Bench(kernels::Kernels& kernels, double seconds);
  ~Bench();
  Bench(const Bench&) = delete;
  Bench& operator=(const Bench&) = delete;

  kernels::Kernels& kernels() { return kernels_; }
  kernels::DeviceMemory& memory() { return memory_; }

  // Gives back at its end what was taken since its begin.
  class Scope {
   public:
    explicit Scope(Bench& bench) : bench_(bench), pieces_(bench.pieces_.size()) {}
    ~Scope() { bench_.release_to(pieces_); }
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    Bench& bench_;
    const std::size_t pieces_;
  };

  // Memory of the device.
  void* take(std::size_t bytes);
  // Random numbers of the device, from -1 to 1.
  kernels::MatrixF32 random_floats(std::size_t rows, std::size_t cols);
  // Random BF16 numbers of the device, which repeat after some megabytes.
  void* random_halves(std::size_t count);
  // Random numbers around 1 / sqrt(cols), so that activations keep their size; quantised from them. Weights of one
  // shape and type have the same numbers, in memory of their own: to draw billions takes longer than to measure.
  std::unique_ptr<kernels::PackedWeight> random_weight(std::size_t rows, std::size_t cols, kernels::DType dtype,
                                                       std::size_t group = 0);
  // Host copies of random weights are of no more use.
  void forget_weights() { stored_.clear(); }

  // Of work that is queued: the median of some rounds, after a warm-up.
  double seconds_of(const std::function<void()>& work, int times);
  double seconds_of(const std::function<void()>& work, int times, const std::function<Result<void>()>& wait) const;
  StepTime time_of_step(const std::function<void()>& step);

 private:
  struct Stored {
    std::vector<std::byte> bytes;
    std::vector<float> scales;
  };

  void release_to(std::size_t pieces);
  const Stored& stored_weight(std::size_t rows, std::size_t cols, kernels::DType dtype);

  kernels::Kernels& kernels_;
  kernels::DeviceMemory& memory_;
  kernels::Gpu& gpu_;
  const double most_seconds_;
  std::mt19937 random_{1};
  std::uniform_real_distribution<float> uniform_{-1, 1};
  std::vector<std::pair<void*, std::size_t>> pieces_;
  std::map<std::tuple<std::size_t, std::size_t, kernels::DType>, Stored> stored_;
};

// The upper half of a float's bits.
std::uint16_t bf16(float value);

}  // namespace troupe::bench
