#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "cluster/bench/trace.h"

namespace troupe::cluster {

// One request as its line has it; the time is in seconds since whenever.
struct TraceLine {
  double time_s = 0;
  std::uint32_t prompt_tokens = 0;
  std::uint32_t output_tokens = 0;
  std::vector<std::uint64_t> blocks;
};

// Reads the lines of one form of trace, in order.
class TraceFormat {
 public:
  virtual ~TraceFormat() = default;

  // Nothing for a line that holds no request, such as a header. Errors say what is wrong with the line, not where.
  virtual Result<std::optional<TraceLine>> read(std::string_view line) = 0;
};

std::unique_ptr<TraceFormat> csv_trace_format();
std::unique_ptr<TraceFormat> jsonl_trace_format();

}  // namespace troupe::cluster
