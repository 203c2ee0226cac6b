#include "cluster/bench/trace.h"

#include <fmt/format.h>

#include <fstream>
#include <limits>

#include "cluster/bench/trace_formats.h"
#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

enum class LineEnd { kLine, kTooLong, kEndOfFile };

// The next line without its end ("\n" or "\r\n"), of at most max_bytes.
LineEnd next_line(std::istream& in, std::string& line, std::uint64_t max_bytes) {
  line.clear();
  std::streambuf& bytes = *in.rdbuf();
  constexpr int kEnd = std::streambuf::traits_type::eof();
  for (int byte = bytes.sbumpc(); byte != '\n'; byte = bytes.sbumpc()) {
    if (byte == kEnd) {
      if (line.empty()) return LineEnd::kEndOfFile;
      break;
    }
    if (line.size() == max_bytes) return LineEnd::kTooLong;
    line += static_cast<char>(byte);
  }
  if (line.ends_with('\r')) line.pop_back();
  return LineEnd::kLine;
}

Result<void> add(Trace& trace, const TraceLine& line, double first_s, const Limits& limits) {
  const double arrival_s = line.time_s - first_s;
  const double previous_s = trace.requests.empty() ? 0 : trace.requests.back().arrival_s;
  if (arrival_s < previous_s) {
    return invalid_argument(fmt::format(
        "the request arrives {:g} s before the one above it; sort the trace by its times", previous_s - arrival_s));
  }
  if (trace.requests.size() >= limits.trace_requests) {
    return resource_exhausted(
        fmt::format("the trace has more than {} requests (limit trace_requests)", limits.trace_requests));
  }
  if (trace.blocks.size() + line.blocks.size() > limits.trace_blocks) {
    return resource_exhausted(
        fmt::format("the trace has more than {} hash_ids (limit trace_blocks)", limits.trace_blocks));
  }
  trace.requests.push_back({arrival_s, line.prompt_tokens, line.output_tokens, trace.blocks.size(),
                            static_cast<std::uint32_t>(line.blocks.size())});
  trace.blocks.insert(trace.blocks.end(), line.blocks.begin(), line.blocks.end());
  return {};
}

}  // namespace

double Trace::rate(std::size_t count) const {
  const double span_s = requests[count - 1].arrival_s;
  return span_s > 0 ? static_cast<double>(count - 1) / span_s : 0;
}

Result<Trace> read_trace(const std::string& file, const Limits& limits) {
  std::ifstream in(file, std::ios::binary);
  if (!in) return not_found("the trace " + one_line(file) + " cannot be read");
  return parse_trace(in, file, limits);
}

Result<Trace> parse_trace(std::istream& in, std::string_view file, const Limits& limits) {
  Trace trace;
  std::unique_ptr<TraceFormat> format;
  std::optional<double> first_s;
  std::string line;
  for (std::uint64_t number = 1;; ++number) {
    const std::string place = fmt::format("{}:{}", one_line(file), number);
    const LineEnd end = next_line(in, line, limits.trace_line_bytes);
    if (end == LineEnd::kEndOfFile) break;
    if (end == LineEnd::kTooLong) {
      return resource_exhausted(
          fmt::format("{}: the line has more than {} bytes (limit trace_line_bytes)", place, limits.trace_line_bytes));
    }
    const std::size_t first = line.find_first_not_of(" \t");
    if (first == std::string::npos) continue;
    if (!format) format = line[first] == '{' ? jsonl_trace_format() : csv_trace_format();
    auto read = format->read(line);
    if (!read.ok()) return std::move(read).error().within(place);
    if (!*read) continue;
    const TraceLine& request = **read;
    if (!first_s) first_s = request.time_s;
    if (auto added = add(trace, request, *first_s, limits); !added.ok()) return std::move(added).error().within(place);
  }
  if (trace.requests.empty()) return invalid_argument(one_line(file) + " holds no request");
  return trace;
}

}  // namespace troupe::cluster
