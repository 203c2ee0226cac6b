#include "cluster/http/json_member.h"

namespace troupe::cluster {
namespace {

namespace json = boost::json;

}  // namespace

const json::value* json_member(const json::value* value, std::string_view name) {
  const json::object* object = value == nullptr ? nullptr : value->if_object();
  return object == nullptr ? nullptr : object->if_contains(name);
}

std::string json_text(const json::value* value) {
  const json::string* text = value == nullptr ? nullptr : value->if_string();
  return text == nullptr ? std::string() : std::string(text->data(), text->size());
}

}  // namespace troupe::cluster
