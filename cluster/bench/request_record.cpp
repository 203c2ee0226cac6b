#include "cluster/bench/request_record.h"

namespace troupe::cluster {

std::string error_kind(const RequestRecord& record) {
  switch (record.result) {
    case RequestResult::kHttpStatus: return "http_" + std::to_string(record.status);
    case RequestResult::kNoConnection: return "no_connection";
    case RequestResult::kTimedOut: return "timed_out";
    case RequestResult::kCutStream: return "cut_stream";
    case RequestResult::kStreamError: return "stream_error";
    case RequestResult::kMalformed: return "malformed";
    case RequestResult::kNoOutput: return "no_output";
    case RequestResult::kAnswered:
    case RequestResult::kUnfinished: break;
  }
  return {};
}

}  // namespace troupe::cluster
