#include "runtime/engine/error_info.h"

namespace troupe::engine {

// Both lists have the same order, which lets a cast translate.
static_assert(static_cast<int>(ErrorCode::kInvalidArgument) ==
              static_cast<int>(schema::ErrorInfo::Code::INVALID_ARGUMENT));
static_assert(static_cast<int>(ErrorCode::kInternal) == static_cast<int>(schema::ErrorInfo::Code::INTERNAL));

void write_error(const Error& error, schema::ErrorInfo::Builder to) {
  to.setCode(static_cast<schema::ErrorInfo::Code>(error.code));
  to.setMessage(error.message.c_str());
  to.setParam(error.param.c_str());
  to.setRetryAfterMs(error.retry_after_ms);
}

Error read_error(schema::ErrorInfo::Reader from) {
  const bool known = from.getCode() <= schema::ErrorInfo::Code::INTERNAL;
  return {.code = known ? static_cast<ErrorCode>(from.getCode()) : ErrorCode::kInternal,
          .message = from.getMessage().cStr(),
          .param = from.getParam().cStr(),
          .retry_after_ms = from.getRetryAfterMs()};
}

}  // namespace troupe::engine
