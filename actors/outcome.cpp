#include "actors/outcome.h"

namespace troupe {

void write_error(const Error& error, schema::ErrorInfo::Builder out) {
  static_assert(static_cast<int>(ErrorCode::kInternal) == static_cast<int>(schema::ErrorInfo::Code::INTERNAL));
  out.setCode(static_cast<schema::ErrorInfo::Code>(error.code));
  out.setMessage(error.message);
  out.setParam(error.param);
}

Error read_error(schema::ErrorInfo::Reader in) {
  const auto code = static_cast<int>(in.getCode());
  const bool known = code >= 0 && code <= static_cast<int>(ErrorCode::kInternal);
  return {known ? static_cast<ErrorCode>(code) : ErrorCode::kInternal, in.getMessage(), in.getParam()};
}

fabric::Message<schema::Outcome> outcome_of(const Result<void>& result) {
  return fabric::make_message<schema::Outcome>([&](schema::Outcome::Builder out) {
    if (result.ok()) {
      out.setOk();
    } else {
      write_error(result.error(), out.initError());
    }
  });
}

Result<void> read_outcome(const fabric::Message<schema::Outcome>& outcome) {
  const auto in = outcome.read();
  if (in->isError()) return read_error(in->getError());
  return {};
}

}  // namespace troupe
