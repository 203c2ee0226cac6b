#include "tests/bench/gpu_bench/bench.h"

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>

#include "kernels/cuda/gpu_memory.h"
#include "kernels/quant.h"

namespace troupe::bench {
namespace {

using namespace kernels;
using Clock = std::chrono::steady_clock;

constexpr std::size_t kMostRounds = 5;
constexpr std::size_t kDifferentRows = 256;
constexpr std::size_t kDifferentHalves = std::size_t{4} << 20;
constexpr int kStepsInARow = 3;
constexpr int kWaitedSteps = 8;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

}  // namespace

void give_up(std::string_view what, const Error& error) {
  fmt::print(stderr, "gpu_bench: {}: {}\n", what, error.message);
  std::exit(1);
}

std::uint16_t bf16(float value) { return static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(value) >> 16); }

Bench::Bench(Kernels& kernels, double seconds)
    : kernels_(kernels),
      memory_(kernels.memory()),
      gpu_(dynamic_cast<GpuMemory&>(kernels.memory()).gpu()),
      most_seconds_(seconds) {}

Bench::~Bench() { release_to(0); }

void Bench::release_to(std::size_t pieces) {
  while (pieces_.size() > pieces) {
    memory_.release(pieces_.back().first, pieces_.back().second);
    pieces_.pop_back();
  }
}

void* Bench::take(std::size_t bytes) {
  void* memory = must(memory_.allocate(bytes, "a benchmark"), "memory");
  pieces_.emplace_back(memory, bytes);
  return memory;
}

MatrixF32 Bench::random_floats(std::size_t rows, std::size_t cols) {
  std::vector<float> values(rows * cols);
  for (float& value : values) value = uniform_(random_);
  auto* data = static_cast<float*>(take(values.size() * sizeof(float)));
  memory_.upload(data, values.data(), values.size() * sizeof(float));
  return {data, rows, cols};
}

void* Bench::random_halves(std::size_t count) {
  auto* data = static_cast<std::uint16_t*>(take(count * sizeof(std::uint16_t)));
  std::vector<std::uint16_t> halves(std::min(count, kDifferentHalves));
  for (auto& half : halves) half = bf16(uniform_(random_));
  memory_.upload(data, halves.data(), halves.size() * sizeof halves[0]);
  for (std::size_t first = halves.size(); first < count; first += halves.size()) {
    memory_.copy(data + first, data, std::min(halves.size(), count - first) * sizeof halves[0]);
  }
  return data;
}

// kDifferentRows rows of them, over and over.
const Bench::Stored& Bench::stored_weight(std::size_t rows, std::size_t cols, DType dtype) {
  Stored& stored = stored_[{rows, cols, dtype}];
  if (!stored.bytes.empty()) return stored;
  const std::size_t different = rows % kDifferentRows == 0 ? kDifferentRows : rows;
  const std::size_t bytes = matrix_bytes(dtype, different, cols);
  std::vector<float> floats(different * cols);
  for (float& value : floats) value = uniform_(random_) / std::sqrt(static_cast<float>(cols));
  stored.bytes.resize(matrix_bytes(dtype, rows, cols));
  stored.scales.resize(rows);
  const ConstMatrixF32 values(floats.data(), different, cols);
  if (dtype == DType::kInt8) {
    quantize_int8(values, stored.bytes.data(), std::span(stored.scales).first(different));
  } else if (dtype == DType::kInt4) {
    quantize_int4(values, stored.bytes.data());
  } else {
    auto* halves = reinterpret_cast<std::uint16_t*>(stored.bytes.data());
    for (std::size_t i = 0; i < floats.size(); ++i) halves[i] = bf16(floats[i]);
  }
  for (std::size_t row = different; row < rows; row += different) {
    std::copy_n(stored.bytes.data(), bytes, stored.bytes.data() + row / different * bytes);
    std::copy_n(stored.scales.data(), different, stored.scales.data() + row);
  }
  return stored;
}

std::unique_ptr<PackedWeight> Bench::random_weight(std::size_t rows, std::size_t cols, DType dtype, std::size_t group) {
  const Stored& stored = stored_weight(rows, cols, dtype);
  const WeightView view = {.data = stored.bytes.data(),
                           .dtype = dtype,
                           .rows = rows,
                           .cols = cols,
                           .row_stride = cols,
                           .scales = dtype == DType::kInt8 ? stored.scales.data() : nullptr};
  return must(kernels_.pack(view, group), "a weight");
}

double Bench::seconds_of(const std::function<void()>& work, int times) {
  return seconds_of(work, times, [this] { return memory_.synchronize(); });
}

double Bench::seconds_of(const std::function<void()>& work, int times,
                         const std::function<Result<void>()>& wait) const {
  work();
  must(wait(), "a measurement");
  std::vector<double> rounds;
  const auto begin = Clock::now();
  while (rounds.size() < kMostRounds && (rounds.empty() || seconds_since(begin) < most_seconds_)) {
    const auto start = Clock::now();
    for (int i = 0; i < times; ++i) work();
    must(wait(), "a measurement");
    rounds.push_back(seconds_since(start) / times);
  }
  return median(rounds);
}

StepTime Bench::time_of_step(const std::function<void()>& step) {
  StepTime time = {.seconds = seconds_of(step, kStepsInARow)};
  std::vector<std::unique_ptr<GpuEvent>> begins, ends;
  const auto begin = Clock::now();
  while (begins.size() < kWaitedSteps && (begins.size() < 2 || seconds_since(begin) < most_seconds_)) {
    begins.push_back(must(gpu_.make_event(), "an event"));
    ends.push_back(must(gpu_.make_event(), "an event"));
    gpu_.record(*begins.back());
    step();
    gpu_.record(*ends.back());
    must(memory_.synchronize(), "a step");
  }
  std::vector<double> gaps;
  for (std::size_t i = 1; i < begins.size(); ++i) {
    gaps.push_back(must(gpu_.milliseconds_between(*ends[i - 1], *begins[i]), "a step") * 1e-3);
  }
  time.gap_seconds = median(gaps);
  return time;
}

}  // namespace troupe::bench
