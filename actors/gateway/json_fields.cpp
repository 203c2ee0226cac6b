#include "actors/gateway/json_fields.h"

#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value_stack.hpp>
#include <cmath>

#include "runtime/base/log.h"

namespace troupe {
namespace {

namespace json = boost::json;

// Builds the value as json::parser does, and refuses an object that names a member twice: which of the two was meant
// is anybody's guess.
class Handler {
 public:
  static constexpr std::size_t max_object_size = std::size_t(-1);
  static constexpr std::size_t max_array_size = std::size_t(-1);
  static constexpr std::size_t max_key_size = std::size_t(-1);
  static constexpr std::size_t max_string_size = std::size_t(-1);

  Handler() { stack_.reset(); }

  bool on_document_begin(json::error_code&) { return true; }
  bool on_document_end(json::error_code&) { return true; }
  bool on_object_begin(json::error_code&) {
    keys_.emplace_back();
    return true;
  }
  bool on_object_end(std::size_t n, json::error_code&) {
    keys_.pop_back();
    stack_.push_object(n);
    return true;
  }
  bool on_array_begin(json::error_code&) { return true; }
  bool on_array_end(std::size_t n, json::error_code&) {
    stack_.push_array(n);
    return true;
  }
  bool on_key_part(json::string_view part, std::size_t, json::error_code&) {
    key_ += part;
    stack_.push_chars(part);
    return true;
  }
  bool on_key(json::string_view part, std::size_t, json::error_code& error) {
    key_ += part;
    if (!keys_.back().insert(key_).second) {
      duplicate_ = key_;
      error = json::error::syntax;
      return false;
    }
    key_.clear();
    stack_.push_key(part);
    return true;
  }
  bool on_string_part(json::string_view part, std::size_t, json::error_code&) {
    stack_.push_chars(part);
    return true;
  }
  bool on_string(json::string_view part, std::size_t, json::error_code&) {
    stack_.push_string(part);
    return true;
  }
  bool on_number_part(json::string_view, json::error_code&) { return true; }
  bool on_int64(std::int64_t value, json::string_view, json::error_code&) {
    stack_.push_int64(value);
    return true;
  }
  bool on_uint64(std::uint64_t value, json::string_view, json::error_code&) {
    stack_.push_uint64(value);
    return true;
  }
  bool on_double(double value, json::string_view, json::error_code&) {
    stack_.push_double(value);
    return true;
  }
  bool on_bool(bool value, json::error_code&) {
    stack_.push_bool(value);
    return true;
  }
  bool on_null(json::error_code&) {
    stack_.push_null();
    return true;
  }
  bool on_comment_part(json::string_view, json::error_code&) { return true; }
  bool on_comment(json::string_view, json::error_code&) { return true; }

  const std::optional<std::string>& duplicate() const { return duplicate_; }
  json::value release() { return stack_.release(); }

 private:
  json::value_stack stack_;
  std::vector<std::set<std::string>> keys_;  // of the objects that are open
  std::string key_;
  std::optional<std::string> duplicate_;
};

std::string shown(const json::value& value) { return one_line(json::serialize(value), 40); }

bool asks_for_nothing(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null: return true;
    case json::kind::bool_: return !value.get_bool();
    case json::kind::array: return value.get_array().empty();
    case json::kind::object: return value.get_object().empty();
    case json::kind::string: return value.get_string().empty();
    default: return false;
  }
}

}  // namespace

Result<json::object> parse_json_object(std::string_view text, const Limits& limits) {
  json::parse_options options;
  options.max_depth = limits.json_depth;
  json::basic_parser<Handler> parser(options);
  json::error_code error;
  const std::size_t end = parser.write_some(false, text.data(), text.size(), error);
  const std::string place = " at byte " + std::to_string(end);
  if (const auto& duplicate = parser.handler().duplicate()) {
    return invalid_argument("the body names the member \"" + printable(*duplicate) + "\" twice" + place,
                            printable(*duplicate, 64));
  }
  if (error == json::error::too_deep) {
    return invalid_argument("the body is nested deeper than the limit json_depth of " +
                            std::to_string(limits.json_depth) + place);
  }
  if (error) return invalid_argument("the body is not valid JSON" + place + ": " + error.message());
  if (end < text.size()) return invalid_argument("the body goes on after its JSON value" + place);
  json::value value = parser.handler().release();
  if (!value.is_object()) return invalid_argument("the body is not a JSON object but " + shown(value));
  return std::move(value.get_object());
}

Result<double> json_number(const json::value& value, const std::string& param, double min, double max) {
  if (!value.is_number()) return invalid_argument(param + " is not a number but " + shown(value), param);
  const double number = value.to_number<double>();
  if (std::isfinite(number) && number >= min && number <= max) return number;
  return invalid_argument(fmt::format("{} is {}, outside {}..{}", param, shown(value), min, max), param);
}

Result<std::int64_t> json_integer(const json::value& value, const std::string& param, std::int64_t min,
                                  std::int64_t max) {
  const auto outside = [&] {
    return invalid_argument(fmt::format("{} is {}, outside {}..{}", param, shown(value), min, max), param);
  };
  if (!value.is_number()) return invalid_argument(param + " is not an integer but " + shown(value), param);
  if (value.is_uint64()) return outside();  // beyond the largest int64
  if (value.is_double()) {
    constexpr double kExact = 9007199254740992.0;  // 2^53: every integer up to here is a double of its own
    const double number = value.get_double();
    if (!std::isfinite(number) || std::abs(number) > kExact) return outside();
    if (number != std::trunc(number)) {
      return invalid_argument(param + " is not an integer but " + shown(value), param);
    }
  }
  const std::int64_t integer = value.is_double() ? static_cast<std::int64_t>(value.get_double()) : value.get_int64();
  if (integer < min || integer > max) return outside();
  return integer;
}

JsonFields::JsonFields(const json::object& object, std::string path) : object_(object), path_(std::move(path)) {}

const json::value* JsonFields::find(std::string_view name) {
  known_.emplace(name);
  const json::value* value = object_.if_contains(name);
  return value && value->is_null() ? nullptr : value;
}

Result<std::optional<bool>> JsonFields::boolean(std::string_view name) {
  const json::value* value = find(name);
  if (!value) return std::optional<bool>();
  if (!value->is_bool()) {
    return invalid_argument(param(name) + " is neither true nor false but " + shown(*value), param(name));
  }
  return std::optional<bool>(value->get_bool());
}

Result<std::optional<std::int64_t>> JsonFields::integer(std::string_view name, std::int64_t min, std::int64_t max) {
  const json::value* value = find(name);
  if (!value) return std::optional<std::int64_t>();
  TROUPE_ASSIGN_OR_RETURN(const std::int64_t integer, json_integer(*value, param(name), min, max));
  return std::optional<std::int64_t>(integer);
}

Result<std::optional<double>> JsonFields::number(std::string_view name, double min, double max) {
  const json::value* value = find(name);
  if (!value) return std::optional<double>();
  TROUPE_ASSIGN_OR_RETURN(const double number, json_number(*value, param(name), min, max));
  return std::optional<double>(number);
}

Result<std::optional<std::string>> JsonFields::string(std::string_view name) {
  const json::value* value = find(name);
  if (!value) return std::optional<std::string>();
  if (!value->is_string()) {
    return invalid_argument(param(name) + " is not a string but " + shown(*value), param(name));
  }
  return std::optional<std::string>(std::string(value->get_string()));
}

void JsonFields::ignore(std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) known_.emplace(name);
}

Result<void> JsonFields::refuse(std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    const json::value* value = find(name);
    if (value && !asks_for_nothing(*value)) {
      return unsupported(param(name) + " is not supported by this server; leave it out", param(name));
    }
  }
  return {};
}

Result<void> JsonFields::require(std::string_view name, const json::value& neutral) {
  const json::value* value = find(name);
  if (!value || *value == neutral) return {};
  return unsupported(param(name) + " other than " + json::serialize(neutral) + " is not supported by this server",
                     param(name));
}

std::vector<std::string> JsonFields::unknown() const {
  std::vector<std::string> names;
  for (const auto& member : object_) {
    if (!known_.contains(std::string_view(member.key()))) names.push_back(param(member.key()));
  }
  return names;
}

}  // namespace troupe
