#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"

namespace troupe::model {

// A value as an error shows it: on one line, cut short.
std::string shown(const boost::json::value& value);

// A JSON object. Errors: kCorruptData for anything else, with the place and the byte.
Result<boost::json::value> parse_config_json(std::string_view text, const std::string& place, const Limits& limits);

// One JSON object of a configuration file; its getters check types and ranges and name the key in errors. Refers to the
// object.
class ConfigSection {
 public:
  // place: the file; prefix: of the object's keys in it, such as "rope_scaling.".
  ConfigSection(const boost::json::object& object, std::string place, std::string prefix = {})
      : object_(&object), place_(std::move(place)), prefix_(std::move(prefix)) {}

  // Null both for an absent key and for JSON null, which mean the same unless contains() tells them apart.
  const boost::json::value* find(std::string_view key) const;
  bool contains(std::string_view key) const { return object_->contains(key); }
  const boost::json::object& object() const { return *object_; }
  const std::string& place() const { return place_; }

  Error bad(std::string_view key, const std::string& what) const;      // kCorruptData
  Error refused(std::string_view key, const std::string& what) const;  // kUnsupported

  Result<std::uint32_t> integer(std::string_view key, std::uint32_t min, std::uint32_t max,
                                std::optional<std::uint32_t> otherwise = {}) const;
  // A finite number in (0, max].
  Result<double> positive(std::string_view key, double max, std::optional<double> otherwise = {}) const;
  // One from min to max, if there is one.
  Result<std::optional<double>> number(std::string_view key, double min, double max) const;
  Result<bool> boolean(std::string_view key, bool otherwise) const;
  Result<std::string> string(std::string_view key, std::optional<std::string> otherwise = {}) const;

 private:
  const boost::json::object* object_;
  std::string place_;
  std::string prefix_;
};

}  // namespace troupe::model
