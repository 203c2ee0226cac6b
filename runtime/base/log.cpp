#include "runtime/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <cstdio>
#include <memory>

namespace troupe {
namespace {

// One JSON object a line; the message is escaped here because spdlog's pattern cannot.
class JsonFormatter final : public spdlog::formatter {
 public:
  explicit JsonFormatter(std::string process) : process_(std::move(process)) {}

  void format(const spdlog::details::log_msg& msg, spdlog::memory_buf_t& dest) override {
    const auto since_epoch = msg.time.time_since_epoch();
    const double seconds = std::chrono::duration<double>(since_epoch).count();
    const auto level = spdlog::level::to_string_view(msg.level);
    const std::string line =
        fmt::format("{{\"time\":{:.6f},\"level\":\"{}\",\"process\":\"{}\",\"message\":\"{}\"}}\n", seconds,
                    std::string_view(level.data(), level.size()), process_,
                    printable(std::string_view(msg.payload.data(), msg.payload.size()), msg.payload.size()));
    dest.append(line.data(), line.data() + line.size());
  }

  std::unique_ptr<spdlog::formatter> clone() const override { return std::make_unique<JsonFormatter>(process_); }

 private:
  std::string process_;
};

}  // namespace

Result<void> start_logging(const std::string& process, const std::string& level, const std::string& format) {
  const auto parsed = spdlog::level::from_str(level);
  if (parsed == spdlog::level::off && level != "off") {
    return invalid_argument("log level '" + printable(level) + "' is none of trace, debug, info, warn, error, off",
                            "log-level");
  }
  // On a terminal a line is written in several pieces, because of its colours; those of other processes that write to
  // the same terminal must not come in between.
  std::setvbuf(stderr, nullptr, _IOLBF, BUFSIZ);
  auto logger = std::make_shared<spdlog::logger>(process, std::make_shared<spdlog::sinks::stderr_color_sink_mt>());
  logger->set_level(parsed);
  if (format == "json") {
    logger->set_formatter(std::make_unique<JsonFormatter>(printable(process)));
  } else if (format == "text") {
    logger->set_pattern("%H:%M:%S.%e %^%-5l%$ [%n] %v");
  } else {
    return invalid_argument("log format '" + printable(format) + "' is neither text nor json", "log-format");
  }
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  return {};
}

std::string printable(std::string_view text, std::size_t max_bytes) {
  std::string out;
  const bool cut = text.size() > max_bytes;
  for (const char c : text.substr(0, max_bytes)) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\u{:04x}", byte);
    } else {
      out += c;
    }
  }
  if (cut) out += "...";
  return out;
}

}  // namespace troupe
