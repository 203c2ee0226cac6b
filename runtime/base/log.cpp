#include "runtime/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <algorithm>
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

// Bytes of the UTF-8 character at the front of `text`, 0 if there is none.
std::size_t character_bytes(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return 1;
  if (byte(0) < 0xC0 || byte(0) > 0xF4) return 0;
  const std::size_t length = byte(0) < 0xE0 ? 2 : byte(0) < 0xF0 ? 3 : 4;
  if (text.size() < length) return 0;
  char32_t code_point = byte(0) & (0x7F >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
    code_point = code_point << 6 | (byte(i) & 0x3F);
  }
  constexpr char32_t kSmallest[] = {0, 0, 0x80, 0x800, 0x10000};  // of a length
  const bool is_surrogate = code_point >= 0xD800 && code_point <= 0xDFFF;
  return code_point < kSmallest[length] || is_surrogate || code_point > 0x10FFFF ? 0 : length;
}

std::string escaped(std::string_view text, std::size_t max_bytes, std::string_view to_escape) {
  std::string out;
  std::size_t offset = 0;
  while (offset < text.size()) {
    const std::size_t bytes = std::max<std::size_t>(1, character_bytes(text.substr(offset)));
    if (offset + bytes > max_bytes) break;
    const char c = text[offset];
    const auto byte = static_cast<unsigned char>(c);
    if (bytes > 1) {
      out += text.substr(offset, bytes);
    } else if (to_escape.find(c) != std::string_view::npos) {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte >= 0x7f) {
      out += fmt::format("\\u{:04x}", byte);
    } else {
      out += c;
    }
    offset += bytes;
  }
  if (offset < text.size()) out += "...";
  return out;
}

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

std::string printable(std::string_view text, std::size_t max_bytes) { return escaped(text, max_bytes, "\"\\"); }

std::string one_line(std::string_view text, std::size_t max_bytes) { return escaped(text, max_bytes, ""); }

}  // namespace troupe
