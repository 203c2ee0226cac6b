#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/limits.h"
#include "runtime/base/result.h"

namespace troupe::text {

// A parsed JSON file. Owns what its nodes point into.
class JsonDocument {
 public:
  // kCorruptData with the byte offset, kResourceExhausted beyond json_file_bytes; depth is bounded by json_depth.
  static Result<JsonDocument> parse(std::string_view json, std::string_view origin, const Limits& limits);

  const boost::json::value& root() const;
  const std::string& origin() const { return origin_; }

 private:
  struct Storage;

  std::shared_ptr<const Storage> storage_;
  std::string origin_;
};

// A value inside a document together with its place, such as `decoder.decoders[2].content`, for error messages.
// Points into its document: keep that alive.
class JsonNode {
 public:
  explicit JsonNode(const JsonDocument& document);

  const std::string& path() const { return path_; }
  const std::string& origin() const { return *origin_; }
  std::string place() const;  // "origin: path"

  bool is_string() const;
  bool is_array() const;
  bool is_object() const;
  bool is_zero() const;  // 0 or 0.0

  // A member, or nullopt when it is missing or null. Errors: this is not an object.
  Result<std::optional<JsonNode>> find(std::string_view key) const;
  // The same, but missing or null is an error.
  Result<JsonNode> at(std::string_view key) const;

  // Elements of an array; names and values of an object.
  Result<std::vector<JsonNode>> elements() const;
  Result<std::vector<std::pair<std::string_view, JsonNode>>> members() const;

  Result<std::string_view> string() const;
  Result<bool> boolean() const;
  Result<std::uint64_t> unsigned_integer(std::uint64_t max) const;

  // Members with a default for missing or null ones.
  Result<std::string> string_or(std::string_view key, std::string_view otherwise) const;
  Result<bool> boolean_or(std::string_view key, bool otherwise) const;

  // "origin: path: what", as kCorruptData and as kUnsupported.
  Error corrupt(std::string_view what) const;
  Error not_supported(std::string_view what) const;

 private:
  JsonNode(const boost::json::value& value, std::string path, const std::string& origin);

  const boost::json::value* value_;
  std::string path_;
  const std::string* origin_;
};

// Contents of a file of at most json_file_bytes. kNotFound when there is none.
Result<std::string> read_text_file(const std::filesystem::path& path, const Limits& limits);

}  // namespace troupe::text
