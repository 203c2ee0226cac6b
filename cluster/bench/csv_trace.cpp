#include <fmt/format.h>

#include <array>
#include <charconv>
#include <chrono>
#include <cmath>

#include "cluster/bench/length_distribution.h"
#include "cluster/bench/trace_formats.h"
#include "runtime/base/log.h"

namespace troupe::cluster {
namespace {

constexpr std::array<std::string_view, 3> kColumns = {"TIMESTAMP", "ContextTokens", "GeneratedTokens"};

std::vector<std::string_view> fields_of(std::string_view line) {
  std::vector<std::string_view> fields;
  while (true) {
    const std::size_t comma = line.find(',');
    std::string_view field = line.substr(0, comma);
    while (!field.empty() && (field.front() == ' ' || field.front() == '\t')) field.remove_prefix(1);
    while (!field.empty() && (field.back() == ' ' || field.back() == '\t')) field.remove_suffix(1);
    fields.push_back(field);
    if (comma == std::string_view::npos) return fields;
    line.remove_prefix(comma + 1);
  }
}

template <class Number>
std::optional<Number> number_of(std::string_view text) {
  Number number{};
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), number);
  if (parsed.ec != std::errc() || parsed.ptr != text.data() + text.size()) return std::nullopt;
  return number;
}

// A number of so many digits at a place of "2023-11-16 18:17:03".
std::optional<int> digits(std::string_view text, std::size_t at, std::size_t count) {
  const std::string_view part = text.substr(at, count);
  for (const char c : part) {
    if (c < '0' || c > '9') return std::nullopt;
  }
  return number_of<int>(part);
}

// Seconds since 1970 of "2023-11-16 18:17:03", with or without a fraction, a "T" between, and UTC's "Z" or "+00:00".
std::optional<double> date_and_time_s(std::string_view text) {
  constexpr std::size_t kWithoutFraction = 19;
  constexpr std::string_view kMarks = "0000-00-00 00:00:00";
  if (text.ends_with("Z")) text.remove_suffix(1);
  if (text.ends_with("+00:00")) text.remove_suffix(6);
  if (text.size() < kWithoutFraction) return std::nullopt;
  for (std::size_t i = 0; i < kMarks.size(); ++i) {
    const bool is_mark = kMarks[i] == '0' || text[i] == kMarks[i] || (i == 10 && text[i] == 'T');
    if (!is_mark) return std::nullopt;
  }
  const auto year = digits(text, 0, 4), month = digits(text, 5, 2), day = digits(text, 8, 2);
  const auto hour = digits(text, 11, 2), minute = digits(text, 14, 2), second = digits(text, 17, 2);
  if (!year || !month || !day || !hour || !minute || !second) return std::nullopt;
  const std::chrono::year_month_day date{std::chrono::year(*year), std::chrono::month(static_cast<unsigned>(*month)),
                                         std::chrono::day(static_cast<unsigned>(*day))};
  if (!date.ok() || *hour > 23 || *minute > 59 || *second > 60) return std::nullopt;
  double fraction = 0;
  if (text.size() > kWithoutFraction) {
    const std::string_view rest = text.substr(kWithoutFraction);
    if (rest.size() < 2 || rest.front() != '.' || rest.find_first_not_of("0123456789", 1) != std::string_view::npos) {
      return std::nullopt;
    }
    fraction = number_of<double>(rest).value_or(0);
  }
  const auto days = std::chrono::sys_days(date).time_since_epoch().count();
  return static_cast<double>(days) * 86'400 + *hour * 3'600 + *minute * 60 + *second + fraction;
}

class CsvTrace : public TraceFormat {
 public:
  Result<std::optional<TraceLine>> read(std::string_view line) override {
    const std::vector<std::string_view> fields = fields_of(line);
    if (count_ == 0) {
      TROUPE_RETURN_IF_ERROR(read_header(fields));
      return std::optional<TraceLine>();
    }
    if (fields.size() != count_) {
      return invalid_argument(fmt::format("the line has {} columns, the header {}", fields.size(), count_));
    }
    TraceLine request;
    const std::string_view time = fields[place_[0]];
    std::optional<double> seconds = number_of<double>(time);
    if (!seconds) seconds = date_and_time_s(time);
    if (!seconds || !std::isfinite(*seconds)) {
      return invalid_argument(fmt::format("{} is '{}'; times are written 2023-11-16 18:17:03.9799600, or as seconds",
                                          kColumns[0], printable(time)));
    }
    request.time_s = *seconds;
    TROUPE_ASSIGN_OR_RETURN(request.prompt_tokens, tokens(fields, 1));
    TROUPE_ASSIGN_OR_RETURN(request.output_tokens, tokens(fields, 2));
    return std::optional(std::move(request));
  }

 private:
  Result<void> read_header(const std::vector<std::string_view>& fields) {
    for (std::size_t column = 0; column < kColumns.size(); ++column) {
      std::optional<std::size_t> found;
      for (std::size_t i = 0; i < fields.size(); ++i) {
        if (fields[i] == kColumns[column]) found = i;
      }
      if (!found) {
        return invalid_argument(fmt::format("there is no column {}; the first line of a CSV trace names {}, {} and {}",
                                            kColumns[column], kColumns[0], kColumns[1], kColumns[2]));
      }
      place_[column] = *found;
    }
    count_ = fields.size();
    return {};
  }

  Result<std::uint32_t> tokens(const std::vector<std::string_view>& fields, std::size_t column) const {
    const std::string_view text = fields[place_[column]];
    const auto number = number_of<std::uint32_t>(text);
    if (!number || *number > kMaxLengthTokens) {
      return invalid_argument(
          fmt::format("{} is '{}', not a number of 0..{}", kColumns[column], printable(text), kMaxLengthTokens));
    }
    return *number;
  }

  std::size_t count_ = 0;  // columns; 0 = the header is still to come
  std::array<std::size_t, 3> place_{};
};

}  // namespace

std::unique_ptr<TraceFormat> csv_trace_format() { return std::make_unique<CsvTrace>(); }

}  // namespace troupe::cluster
