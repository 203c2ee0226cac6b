#include "kernels/cuda/gpu_row_sampler.h"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <type_traits>
#include <utility>

#include "kernels/cuda/sampling.h"

namespace troupe::kernels {
namespace {

// What rows that are drawn from at a time may work in: a large vocabulary takes megabytes a row.
constexpr std::size_t kMostScratchBytes = std::size_t{256} << 20;

template <class T>
std::size_t append(std::vector<std::byte>& to, std::span<const T> list) {
  static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= alignof(std::uint64_t));
  const std::size_t begin = (to.size() + alignof(std::uint64_t) - 1) / alignof(std::uint64_t) * alignof(std::uint64_t);
  to.resize(begin + list.size_bytes());
  if (!list.empty()) std::memcpy(to.data() + begin, list.data(), list.size_bytes());
  return begin;
}

}  // namespace

GpuRowSampler::GpuRowSampler(GpuMemory& memory)
    : memory_(memory),
      parameters_(memory, "sampling parameters"),
      results_(memory, "sampled tokens"),
      scratch_(memory, "sampling") {}

GpuRowSampler::~GpuRowSampler() {
  for (const HostResults& results : host_results_) {
    if (results.data != nullptr) memory_.pinned().release(results.data, results.words * sizeof(std::uint32_t));
  }
}

void GpuRowSampler::begin(const SamplingBatch& batch) {
  rows_ = batch.rows.size();
  most_top_logprobs_ = 0;
  for (const SamplingRow& row : batch.rows) {
    if (row.logprobs) most_top_logprobs_ = std::max<std::size_t>(most_top_logprobs_, row.top_logprobs);
  }
  if (rows_ == 0) return;
  packed_.clear();
  append(packed_, batch.rows);
  history_ = append(packed_, batch.history);
  bias_tokens_ = append(packed_, batch.bias_tokens);
  bias_values_ = append(packed_, batch.bias_values);
  masked_ = append(packed_, batch.masked);
  device_results_ = reinterpret_cast<std::uint32_t*>(results_.of(result_words() * sizeof(std::uint32_t)));
  // Histories grow step by step: the memory for them does not.
  device_parameters_ = parameters_.of(std::bit_ceil(packed_.size()));
  if (memory_.failed()) return;
  memory_.upload(device_parameters_, packed_.data(), packed_.size());
}

// Whether there is pinned memory for the results of the batch.
bool GpuRowSampler::reserve(HostResults& results) {
  const std::size_t words = result_words();
  if (words <= results.words) return true;
  if (results.data != nullptr) {
    // The results of a batch that nobody took may be on their way still.
    if (auto done = memory_.synchronize(); !done.ok()) return false;
    memory_.pinned().release(results.data, results.words * sizeof(std::uint32_t));
  }
  results.data = nullptr;
  results.words = 0;
  auto memory = memory_.pinned().allocate(2 * words * sizeof(std::uint32_t), "sampled tokens");
  if (!memory.ok()) {
    memory_.fail(std::move(memory).error());
    return false;
  }
  results.data = static_cast<std::uint32_t*>(*memory);
  results.words = 2 * words;
  return true;
}

std::size_t GpuRowSampler::rows_together(std::size_t rows, std::size_t vocabulary) {
  return std::clamp<std::size_t>(kMostScratchBytes / sample_row_bytes(vocabulary), 1, rows);
}

void GpuRowSampler::draw(std::size_t first, ConstMatrixF32 logits) {
  assert(first + logits.rows <= rows_);
  if (logits.rows == 0) return;
  const std::size_t together = rows_together(logits.rows, logits.cols);
  std::byte* const scratch = scratch_.of(sample_workspace_bytes(together, logits.cols));
  if (memory_.failed()) return;
  const std::byte* const from = device_parameters_;
  auto* const logprobs = reinterpret_cast<float*>(device_results_ + rows_);
  std::uint32_t* const top_tokens = device_results_ + 2 * rows_;
  auto* const top_logprobs = reinterpret_cast<float*>(top_tokens + rows_ * most_top_logprobs_);
  for (std::size_t done = 0; done < logits.rows; done += together) {
    const std::size_t row = first + done, count = std::min(together, logits.rows - done);
    TROUPE_GPU_CALL(sample, memory_.gpu().stream(),
                    SampleCall{.logits = logits.row(done),
                               .rows = count,
                               .vocabulary = logits.cols,
                               .row_stride = logits.row_stride,
                               .parameters = reinterpret_cast<const SamplingRow*>(from) + row,
                               .history = reinterpret_cast<const std::uint32_t*>(from + history_),
                               .bias_tokens = reinterpret_cast<const std::uint32_t*>(from + bias_tokens_),
                               .bias_values = reinterpret_cast<const float*>(from + bias_values_),
                               .masked = reinterpret_cast<const std::uint32_t*>(from + masked_),
                               .tokens = device_results_ + row,
                               .logprobs = logprobs + row,
                               .top_tokens = top_tokens + row * most_top_logprobs_,
                               .top_logprobs = top_logprobs + row * most_top_logprobs_,
                               .most_top_logprobs = most_top_logprobs_,
                               .workspace = scratch});
  }
}

void GpuRowSampler::send() {
  assert(sent_ - taken_ < kMostBatchesSent);
  HostResults& results = host_results_[sent_++ % kMostBatchesSent];
  results.rows = rows_;
  results.most_top_logprobs = most_top_logprobs_;
  if (rows_ == 0 || !reserve(results) || memory_.failed()) return;
  memory_.gpu().copy_to_host(results.data, device_results_, result_words() * sizeof(std::uint32_t));
}

Result<SampledRows> GpuRowSampler::take() {
  assert(taken_ < sent_);
  const HostResults& results = host_results_[taken_++ % kMostBatchesSent];
  if (results.rows == 0) return SampledRows{};
  if (memory_.failed()) TROUPE_RETURN_IF_ERROR(memory_.synchronize());
  const auto* const logprobs = reinterpret_cast<const float*>(results.data + results.rows);
  const std::uint32_t* const top_tokens = results.data + 2 * results.rows;
  const std::size_t top = results.rows * results.most_top_logprobs;
  return SampledRows{.tokens = {results.data, results.rows},
                     .logprobs = {logprobs, results.rows},
                     .top_tokens = {top_tokens, top},
                     .top_logprobs = {reinterpret_cast<const float*>(top_tokens + top), top},
                     .most_top_logprobs = results.most_top_logprobs};
}

}  // namespace troupe::kernels
