#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "kernels/cuda/workspace.h"
#include "kernels/row_sampler.h"

namespace troupe::kernels {

// Draws with kernels/cuda/sampling.h. Parameters go to the device by one copy a batch, and tokens come back by one.
class GpuRowSampler final : public RowSampler {
 public:
  explicit GpuRowSampler(GpuMemory& memory);
  ~GpuRowSampler() override;

  void begin(const SamplingBatch& batch) override;
  void draw(std::size_t first, ConstMatrixF32 logits) override;
  void send() override;
  Result<SampledRows> take() override;

  // Rows that are drawn from at a time, of so many: what they work in is bounded.
  static std::size_t rows_together(std::size_t rows, std::size_t vocabulary);

  // On the device: (rows) tokens of the batch begun last, for what comes after its send().
  const std::uint32_t* tokens() const { return device_results_; }
  std::size_t rows() const { return rows_; }

 private:
  // What a batch has given, pinned.
  struct HostResults {
    std::uint32_t* data = nullptr;
    std::size_t words = 0;  // that there is room for
    std::size_t rows = 0;
    std::size_t most_top_logprobs = 0;
  };

  // Where things lie, in words: (rows) tokens, (rows) logprobs, then both of the most probable.
  std::size_t result_words() const { return rows_ * (2 + 2 * most_top_logprobs_); }
  bool reserve(HostResults& results);

  GpuMemory& memory_;
  Workspace parameters_;
  Workspace results_;
  Workspace scratch_;
  std::vector<std::byte> packed_;  // what parameters_ holds
  // In packed_, of the batch begun last.
  std::size_t rows_ = 0;
  std::size_t history_ = 0;
  std::size_t bias_tokens_ = 0;
  std::size_t bias_values_ = 0;
  std::size_t masked_ = 0;
  std::size_t most_top_logprobs_ = 0;
  std::byte* device_parameters_ = nullptr;
  std::uint32_t* device_results_ = nullptr;
  std::array<HostResults, kMostBatchesSent> host_results_;  // in turns
  std::uint64_t sent_ = 0;                                  // batches
  std::uint64_t taken_ = 0;
};

}  // namespace troupe::kernels
