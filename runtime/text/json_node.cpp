#include "runtime/text/json_node.h"

#include <algorithm>
#include <boost/json.hpp>
#include <fstream>

#include "runtime/base/log.h"

namespace troupe::text {

namespace json = boost::json;

struct JsonDocument::Storage {
  json::monotonic_resource memory;
  json::value root;
};

Result<JsonDocument> JsonDocument::parse(std::string_view text, std::string_view origin, const Limits& limits) {
  const std::string name(origin);
  if (text.size() > limits.json_file_bytes) {
    return resource_exhausted(name + ": " + std::to_string(text.size()) +
                                  " bytes, more than the limit json_file_bytes (" +
                                  std::to_string(limits.json_file_bytes) + ")",
                              "json_file_bytes");
  }
  auto storage = std::make_shared<Storage>();
  json::parse_options options;
  options.max_depth = static_cast<std::size_t>(limits.json_depth);
  json::stream_parser parser(json::storage_ptr(), options);
  parser.reset(&storage->memory);
  boost::system::error_code error;
  const std::size_t read = parser.write_some(text.data(), text.size(), error);
  if (!error && read < text.size()) error = json::error::extra_data;
  if (!error) parser.finish(error);
  if (error) {
    return corrupt_data(name + ": not valid JSON at byte " + std::to_string(read) + ": " + error.message());
  }
  storage->root = parser.release();
  JsonDocument document;
  document.storage_ = std::move(storage);
  document.origin_ = name;
  return document;
}

const json::value& JsonDocument::root() const { return storage_->root; }

JsonNode::JsonNode(const JsonDocument& document) : JsonNode(document.root(), "", document.origin()) {}

JsonNode::JsonNode(const json::value& value, std::string path, const std::string& origin)
    : value_(&value), path_(std::move(path)), origin_(&origin) {}

bool JsonNode::is_string() const { return value_->is_string(); }
bool JsonNode::is_array() const { return value_->is_array(); }
bool JsonNode::is_object() const { return value_->is_object(); }

bool JsonNode::is_zero() const {
  return value_->is_double() ? value_->get_double() == 0 : value_->is_int64() && value_->get_int64() == 0;
}

Result<std::optional<JsonNode>> JsonNode::find(std::string_view key) const {
  if (!value_->is_object()) return corrupt("must be an object");
  const json::value* member = value_->get_object().if_contains(key);
  if (!member || member->is_null()) return std::optional<JsonNode>();
  const std::string shown = printable(key);
  return std::optional(JsonNode(*member, path_.empty() ? shown : path_ + "." + shown, *origin_));
}

Result<JsonNode> JsonNode::at(std::string_view key) const {
  TROUPE_ASSIGN_OR_RETURN(auto member, find(key));
  if (!member) return corrupt("has no \"" + std::string(key) + "\"");
  return *std::move(member);
}

Result<std::vector<JsonNode>> JsonNode::elements() const {
  if (!value_->is_array()) return corrupt("must be an array");
  std::vector<JsonNode> nodes;
  const json::array& array = value_->get_array();
  nodes.reserve(array.size());
  for (std::size_t i = 0; i < array.size(); ++i) {
    nodes.push_back(JsonNode(array[i], path_ + "[" + std::to_string(i) + "]", *origin_));
  }
  return nodes;
}

Result<std::vector<std::pair<std::string_view, JsonNode>>> JsonNode::members() const {
  if (!value_->is_object()) return corrupt("must be an object");
  std::vector<std::pair<std::string_view, JsonNode>> nodes;
  const json::object& object = value_->get_object();
  nodes.reserve(object.size());
  for (const auto& member : object) {
    nodes.emplace_back(member.key(),
                       JsonNode(member.value(), path_ + "[\"" + printable(member.key()) + "\"]", *origin_));
  }
  return nodes;
}

Result<std::string_view> JsonNode::string() const {
  if (!value_->is_string()) return corrupt("must be a string");
  return std::string_view(value_->get_string());
}

Result<bool> JsonNode::boolean() const {
  if (!value_->is_bool()) return corrupt("must be true or false");
  return value_->get_bool();
}

Result<std::uint64_t> JsonNode::unsigned_integer(std::uint64_t max) const {
  std::uint64_t number = 0;
  if (value_->is_int64() && value_->get_int64() >= 0) {
    number = static_cast<std::uint64_t>(value_->get_int64());
  } else if (value_->is_uint64()) {
    number = value_->get_uint64();
  } else {
    return corrupt("must be an integer from 0 to " + std::to_string(max));
  }
  if (number > max) return corrupt(std::to_string(number) + " is not an integer from 0 to " + std::to_string(max));
  return number;
}

Result<std::string> JsonNode::string_or(std::string_view key, std::string_view otherwise) const {
  TROUPE_ASSIGN_OR_RETURN(const auto member, find(key));
  if (!member) return std::string(otherwise);
  TROUPE_ASSIGN_OR_RETURN(const auto text, member->string());
  return std::string(text);
}

Result<bool> JsonNode::boolean_or(std::string_view key, bool otherwise) const {
  TROUPE_ASSIGN_OR_RETURN(const auto member, find(key));
  if (!member) return otherwise;
  return member->boolean();
}

std::string JsonNode::place() const { return path_.empty() ? *origin_ : *origin_ + ": " + path_; }

Error JsonNode::corrupt(std::string_view what) const { return corrupt_data(place() + ": " + std::string(what)); }

Error JsonNode::not_supported(std::string_view what) const { return unsupported(place() + ": " + std::string(what)); }

Result<std::string> read_text_file(const std::filesystem::path& path, const Limits& limits) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return not_found(path.string() + ": no such file");
  if (!std::filesystem::is_regular_file(path, error)) return corrupt_data(path.string() + ": not a regular file");
  const auto bytes = std::filesystem::file_size(path, error);
  if (error) return unavailable(path.string() + ": " + error.message());
  if (bytes > limits.json_file_bytes) {
    return resource_exhausted(path.string() + ": " + std::to_string(bytes) +
                                  " bytes, more than the limit json_file_bytes (" +
                                  std::to_string(limits.json_file_bytes) + ")",
                              "json_file_bytes");
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(static_cast<std::size_t>(bytes), '\0');
  if (!file.read(text.data(), static_cast<std::streamsize>(text.size()))) {
    return unavailable(path.string() + ": cannot be read");
  }
  return text;
}

}  // namespace troupe::text
