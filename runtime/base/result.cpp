#include "runtime/base/result.h"

namespace troupe {

std::string_view to_string(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument: return "invalid argument";
    case ErrorCode::kNotFound: return "not found";
    case ErrorCode::kUnavailable: return "unavailable";
    case ErrorCode::kDeadlineExceeded: return "deadline exceeded";
    case ErrorCode::kResourceExhausted: return "resource exhausted";
    case ErrorCode::kCorruptData: return "corrupt data";
    case ErrorCode::kUnsupported: return "unsupported";
    case ErrorCode::kCancelled: return "cancelled";
    case ErrorCode::kInternal: return "internal error";
  }
  return "unknown error";
}

Error Error::within(std::string_view context) && {
  message = std::string(context) + ": " + message;
  return std::move(*this);
}

Error invalid_argument(std::string message, std::string param) {
  return {ErrorCode::kInvalidArgument, std::move(message), std::move(param)};
}
Error not_found(std::string message) { return {ErrorCode::kNotFound, std::move(message), {}}; }
Error unavailable(std::string message) { return {ErrorCode::kUnavailable, std::move(message), {}}; }
Error deadline_exceeded(std::string message, std::string param) {
  return {ErrorCode::kDeadlineExceeded, std::move(message), std::move(param)};
}
Error resource_exhausted(std::string message, std::string param) {
  return {ErrorCode::kResourceExhausted, std::move(message), std::move(param)};
}
Error corrupt_data(std::string message) { return {ErrorCode::kCorruptData, std::move(message), {}}; }
Error unsupported(std::string message, std::string param) {
  return {ErrorCode::kUnsupported, std::move(message), std::move(param)};
}
Error cancelled(std::string message) { return {ErrorCode::kCancelled, std::move(message), {}}; }
Error internal_error(std::string message) { return {ErrorCode::kInternal, std::move(message), {}}; }

}  // namespace troupe
