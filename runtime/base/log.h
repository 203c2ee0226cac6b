#pragma once

#include <spdlog/spdlog.h>

#include <string>

#include "runtime/base/result.h"

namespace troupe {

// Sets up the process's one logger (spdlog's default logger), writing to standard error.
// `process` is put into every line (the node's name). `format` is "text" or "json"; `level` one of trace, debug,
// info, warn, error. Call once, before threads start. Log once, where an error is first known.
Result<void> start_logging(const std::string& process, const std::string& level, const std::string& format);

// `text` with control characters and quotes escaped as in JSON, cut to `max_bytes`: for anything from outside
// that goes into a log line or an error message.
std::string printable(std::string_view text, std::size_t max_bytes = 120);

}  // namespace troupe
