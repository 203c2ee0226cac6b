#pragma once

#include <cstdint>
#include <iosfwd>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"

namespace troupe::cluster {

struct TraceRequest {
  double arrival_s = 0;  // after the first request of the trace; never before the request before it
  std::uint32_t prompt_tokens = 0;
  std::uint32_t output_tokens = 0;
  std::uint64_t first_block = 0;  // of the trace's `blocks`
  std::uint32_t num_blocks = 0;
};

// Requests that somebody once sent to a server: when, and how long they were. A plain value.
//
// Two forms are read, and told apart by their first character:
//   CSV    a header with TIMESTAMP, ContextTokens and GeneratedTokens, in any order and beside other columns; times are
//          "2023-11-16 18:17:03.9799600" or seconds (Azure's LLM inference traces)
//   JSONL  {"timestamp": ms, "input_length": n, "output_length": n, "hash_ids": [...]} a line; equal hash_ids mean
//   equal
//          blocks of kTraceBlockTokens prompt tokens, the last one of a prompt not full (Mooncake's traces)
struct Trace {
  std::vector<TraceRequest> requests;  // at least one
  std::vector<std::uint64_t> blocks;   // hash_ids of all requests, one after the other

  bool has_blocks() const { return !blocks.empty(); }
  std::span<const std::uint64_t> blocks_of(const TraceRequest& request) const {
    return std::span(blocks).subspan(request.first_block, request.num_blocks);
  }
  // Requests a second of the first `count` of them, from the first to the last; 0 if they all come at once.
  // REQUIRES: 1 <= count <= requests.size()
  double rate(std::size_t count) const;
};

inline constexpr std::uint32_t kTraceBlockTokens = 512;

// Errors name the file and the line: not a trace, a number that is none or out of range, a missing column or key, times
// that run backwards, hash_ids that do not cover the prompt, limits trace_line_bytes, trace_requests and trace_blocks.
Result<Trace> read_trace(const std::string& file, const Limits& limits);

// The same for what is open already; `file` only names it.
Result<Trace> parse_trace(std::istream& in, std::string_view file, const Limits& limits);

}  // namespace troupe::cluster
