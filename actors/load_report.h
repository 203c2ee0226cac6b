#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include <caf/actor.hpp>

namespace troupe {

// What an actor that loads weights tells of it: LoadProgress now and then to whoever asked for the actor, and a line at
// the end. Its time begins when it is made.
class LoadReport {
 public:
  // asker: null = nobody wants to know.
  LoadReport(std::string actor, caf::actor asker);

  // A model::ProgressCallback.
  void progress(std::uint64_t bytes, std::uint64_t total_bytes);

  // "12.3 MB in 0.45 s (0.03 GB/s), kernels avx2"
  std::string summary(std::uint64_t bytes, std::string_view kernels) const;

 private:
  using Clock = std::chrono::steady_clock;

  std::uint64_t elapsed_ns() const;

  const std::string actor_;
  const caf::actor asker_;
  const Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = start_;  // time that progress was told
};

}  // namespace troupe
