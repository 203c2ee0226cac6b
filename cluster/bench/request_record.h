#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace troupe::cluster {

// How a request ended, as errors are counted.
enum class RequestResult : std::uint8_t {
  kAnswered,
  kHttpStatus,  // another one than 200; counted by status
  kNoConnection,
  kTimedOut,
  kCutStream,    // the answer broke off, or ended without [DONE]
  kStreamError,  // an error event within the stream
  kMalformed,    // no HTTP, no event stream, or events that are no JSON
  kNoOutput,     // a whole answer without any token
  kUnfinished,   // the run was ended before it
};

// What one request showed. Times are seconds after the start of the run.
struct RequestRecord {
  RequestResult result = RequestResult::kAnswered;
  int status = 0;
  bool retry_after = false;  // a refusal said when to come back
  std::string error;         // what was wrong, for people

  double sent_s = 0;
  double late_s = 0;             // sent so much later than it was due
  double end_s = 0;              // the answer was whole
  std::vector<double> pieces_s;  // when each piece of text came; of an answered one at least one

  std::uint32_t prompt_tokens = 0;  // as the server counts them, else as they were meant
  std::uint32_t output_tokens = 0;  // as the server counts them, else the pieces
  std::uint32_t cached_tokens = 0;  // of the prompt, that the server did not compute again
  std::uint32_t max_tokens = 0;     // that were asked for

  // Of answered requests.
  double ttft_s() const { return pieces_s.front() - sent_s; }
  double end_to_end_s() const { return end_s - sent_s; }
  // Time per output token after the first; nothing for answers of a single one.
  std::optional<double> tpot_s() const {
    if (output_tokens < 2) return std::nullopt;
    return (pieces_s.back() - pieces_s.front()) / (output_tokens - 1);
  }
};

// "http_429", "timed_out", ...; of one that failed.
std::string error_kind(const RequestRecord& record);

}  // namespace troupe::cluster
