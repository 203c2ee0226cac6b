#pragma once

#include <cstdint>
#include <string>

#include "actors/gateway/http_server.h"
#include "runtime/base/result.h"

namespace troupe {

// An error as OpenAI's clients know it.
struct ApiError {
  unsigned status = 500;
  std::string type;   // "invalid_request_error", "server_error", ...
  std::string code;   // "context_length_exceeded", "model_not_found", ...; empty = null
  std::string param;  // "messages[1].content"; empty = null
  std::string message;
  std::uint32_t retry_after_ms = 0;  // when to ask again; 0 = not known
};

// How operating errors look from outside.
ApiError api_error(const Error& error);

// The error that fits a bare HTTP status.
ApiError http_error(unsigned status, std::string message);

// {"error": {"message", "type", "param", "code"}}
std::string error_json(const ApiError& error);

// With Retry-After for 429 and 503 (whole seconds; retry-after-ms as well if it is known better), WWW-Authenticate for
// 401. A deadline of the client's own that is over carries x-should-retry: false, lest OpenAI's clients ask again.
HttpResponse error_response(const ApiError& error);

}  // namespace troupe
