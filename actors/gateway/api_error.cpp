#include "actors/gateway/api_error.h"

#include <algorithm>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>

namespace troupe {
namespace {

boost::json::value text_or_null(const std::string& text) {
  if (text.empty()) return nullptr;
  return boost::json::string(text);
}

}  // namespace

ApiError api_error(const Error& error) {
  const auto as = [&](unsigned status, const char* type, const char* code) {
    return ApiError{status, type, code, error.param, error.message, error.retry_after_ms};
  };
  switch (error.code) {
    case ErrorCode::kInvalidArgument: return as(400, "invalid_request_error", "invalid_value");
    case ErrorCode::kUnsupported: return as(400, "invalid_request_error", "unsupported_parameter");
    case ErrorCode::kNotFound: return as(404, "invalid_request_error", "not_found");
    case ErrorCode::kResourceExhausted: return as(429, "rate_limit_error", "rate_limit_exceeded");
    case ErrorCode::kUnavailable:
    case ErrorCode::kCancelled: return as(503, "server_error", "unavailable");
    case ErrorCode::kDeadlineExceeded: return as(504, "server_error", "deadline_exceeded");
    case ErrorCode::kCorruptData:
    case ErrorCode::kInternal: break;
  }
  return as(500, "server_error", "internal_error");
}

ApiError http_error(unsigned status, std::string message) {
  const char* type = status >= 500 ? "server_error" : "invalid_request_error";
  const char* code = "";
  switch (status) {
    case 401:
      type = "authentication_error";
      code = "invalid_api_key";
      break;
    case 404: code = "unknown_url"; break;
    case 405: code = "method_not_allowed"; break;
    case 408: code = "request_timeout"; break;
    case 413: code = "request_too_large"; break;
    case 429:
      type = "rate_limit_error";
      code = "rate_limit_exceeded";
      break;
    case 431: code = "header_too_large"; break;
    case 503: code = "unavailable"; break;
    default: break;
  }
  return {status, type, code, {}, std::move(message)};
}

std::string error_json(const ApiError& error) {
  return boost::json::serialize(boost::json::object{{"error",
                                                     {{"message", error.message},
                                                      {"type", error.type},
                                                      {"param", text_or_null(error.param)},
                                                      {"code", text_or_null(error.code)}}}});
}

HttpResponse error_response(const ApiError& error) {
  HttpResponse response;
  response.status = error.status;
  response.body = error_json(error);
  if (error.status == 429 || error.status == 503) {
    const std::uint32_t seconds = (error.retry_after_ms + 999) / 1000;
    response.headers.push_back({"Retry-After", std::to_string(std::max(seconds, 1u))});
    if (error.retry_after_ms > 0) {
      response.headers.push_back({"retry-after-ms", std::to_string(error.retry_after_ms)});
    }
  }
  if (error.status == 504 && error.param == "timeout") response.headers.push_back({"x-should-retry", "false"});
  if (error.status == 401) response.headers.push_back({"WWW-Authenticate", "Bearer"});
  return response;
}

}  // namespace troupe
