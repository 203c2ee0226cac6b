#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"

namespace troupe {

// Parses a JSON object. Errors (syntax, invalid UTF-8, nesting beyond json_depth, a member named twice, anything but
// an object) name the byte offset.
Result<boost::json::object> parse_json_object(std::string_view text, const Limits& limits);

// One JSON value as an integer in [min, max]; 3.0 is one, "3" and 3.5 are not. `param` names it in errors.
Result<std::int64_t> json_integer(const boost::json::value& value, const std::string& param, std::int64_t min,
                                  std::int64_t max);

// One JSON value as a finite number in [min, max].
Result<double> json_number(const boost::json::value& value, const std::string& param, double min, double max);

// Reads the members of one JSON object with their ranges, and remembers which were asked for: the others are unknown
// fields. A member that is null counts as absent. Holds a reference to the object.
class JsonFields {
 public:
  // `path` comes before member names in errors: "messages[0]." or nothing.
  explicit JsonFields(const boost::json::object& object, std::string path = {});

  const boost::json::value* find(std::string_view name);

  Result<std::optional<bool>> boolean(std::string_view name);
  Result<std::optional<std::int64_t>> integer(std::string_view name, std::int64_t min, std::int64_t max);
  Result<std::optional<double>> number(std::string_view name, double min, double max);
  Result<std::optional<std::string>> string(std::string_view name);

  // These may hold anything: they do not change the answer.
  void ignore(std::initializer_list<std::string_view> names);

  // kUnsupported for any of these that is there and asks for something, that is, neither null, false nor empty:
  // to ignore them would give wrong answers.
  Result<void> refuse(std::initializer_list<std::string_view> names);

  // kUnsupported unless the member is absent or equals `neutral`.
  Result<void> require(std::string_view name, const boost::json::value& neutral);

  std::string param(std::string_view name) const { return path_ + std::string(name); }

  // Members that nobody asked for, with their path.
  std::vector<std::string> unknown() const;

 private:
  const boost::json::object& object_;
  const std::string path_;
  std::set<std::string, std::less<>> known_;
};

}  // namespace troupe
