#include "runtime/model/config_section.h"

#include <boost/json/parse_options.hpp>
#include <boost/json/parser.hpp>
#include <boost/json/serialize.hpp>
#include <limits>

#include "runtime/base/log.h"

namespace troupe::model {
namespace {

namespace json = boost::json;

// NaN for what is no number.
double number_of(const json::value& value) {
  return value.is_double()  ? value.get_double()
         : value.is_int64() ? static_cast<double>(value.get_int64())
                            : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

std::string shown(const json::value& value) { return one_line(json::serialize(value), 60); }

Result<json::value> parse_config_json(std::string_view text, const std::string& place, const Limits& limits) {
  json::parse_options options;
  options.max_depth = limits.json_depth;
  json::parser parser({}, options);
  json::error_code failure;
  std::size_t consumed = parser.write_some(text.data(), text.size(), failure);
  if (!failure && consumed != text.size()) failure = json::error::extra_data;
  if (failure) {
    return corrupt_data(place + ": not valid JSON at byte " + std::to_string(consumed) + ": " + failure.message());
  }
  json::value value = parser.release();
  if (!value.is_object()) return corrupt_data(place + ": the file must hold a JSON object");
  return value;
}

const json::value* ConfigSection::find(std::string_view key) const {
  const json::value* value = object_->if_contains(key);
  return value != nullptr && value->is_null() ? nullptr : value;
}

Error ConfigSection::bad(std::string_view key, const std::string& what) const {
  return Error{ErrorCode::kCorruptData, place_ + ": key '" + prefix_ + std::string(key) + "' " + what,
               prefix_ + std::string(key)};
}

Error ConfigSection::refused(std::string_view key, const std::string& what) const {
  return unsupported(place_ + ": key '" + prefix_ + std::string(key) + "' " + what, prefix_ + std::string(key));
}

Result<std::uint32_t> ConfigSection::integer(std::string_view key, std::uint32_t min, std::uint32_t max,
                                             std::optional<std::uint32_t> otherwise) const {
  const json::value* value = find(key);
  if (value == nullptr) {
    if (otherwise) return *otherwise;
    return bad(key, "is missing; it must be an integer from " + std::to_string(min) + " to " + std::to_string(max));
  }
  if (!value->is_int64() || value->get_int64() < min || value->get_int64() > max) {
    return bad(key, "is " + shown(*value) + "; it must be an integer from " + std::to_string(min) + " to " +
                        std::to_string(max));
  }
  return static_cast<std::uint32_t>(value->get_int64());
}

Result<double> ConfigSection::positive(std::string_view key, double max, std::optional<double> otherwise) const {
  const json::value* value = find(key);
  if (value == nullptr) {
    if (otherwise) return *otherwise;
    return bad(key, "is missing; it must be a positive number");
  }
  const double number = number_of(*value);
  if (!(number > 0 && number <= max)) {
    return bad(key, "is " + shown(*value) + "; it must be a positive number of at most " + std::to_string(max));
  }
  return number;
}

Result<std::optional<double>> ConfigSection::number(std::string_view key, double min, double max) const {
  const json::value* value = find(key);
  if (value == nullptr) return std::optional<double>();
  const double number = number_of(*value);
  if (!(number >= min && number <= max)) {
    return bad(key, "is " + shown(*value) + "; it must be a number from " + std::to_string(min) + " to " +
                        std::to_string(max));
  }
  return std::optional(number);
}

Result<bool> ConfigSection::boolean(std::string_view key, bool otherwise) const {
  const json::value* value = find(key);
  if (value == nullptr) return otherwise;
  if (!value->is_bool()) return bad(key, "is " + shown(*value) + "; it must be true or false");
  return value->get_bool();
}

Result<std::string> ConfigSection::string(std::string_view key, std::optional<std::string> otherwise) const {
  const json::value* value = find(key);
  if (value == nullptr) {
    if (otherwise) return *otherwise;
    return bad(key, "is missing; it must be a string");
  }
  if (!value->is_string()) return bad(key, "is " + shown(*value) + "; it must be a string");
  return std::string(value->get_string());
}

}  // namespace troupe::model
