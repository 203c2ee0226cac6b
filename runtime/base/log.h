#pragma once

#include <spdlog/spdlog.h>

#include <string>

#include "runtime/base/result.h"

namespace troupe {

// Sets up the process's one logger (spdlog's default logger), writing to standard error.
// `process` is put into every line (the node's name). `format` is "text" or "json"; `level` one of trace, debug,
// info, warn, error. Call once, before threads start. Log once, where an error is first known.
Result<void> start_logging(const std::string& process, const std::string& level, const std::string& format);

// For anything from outside that goes into a log line or an error message, cut to `max_bytes`: control characters and
// broken UTF-8 are escaped as in JSON. `printable` also escapes quotes and backslashes: it is for a word that stands
// between quotes of ours. `one_line` leaves them: it is for whole sentences, paths and JSON, whose quotes are their
// own.
std::string printable(std::string_view text, std::size_t max_bytes = 120);
std::string one_line(std::string_view text, std::size_t max_bytes = 400);

}  // namespace troupe
