#include "cluster/http/json_member.h"

namespace troupe::cluster {

const boost::json::value* json_member(const boost::json::value* value, std::string_view name) {
  const boost::json::object* object = value == nullptr ? nullptr : value->if_object();
  return object == nullptr ? nullptr : object->if_contains(name);
}

std::string json_text(const boost::json::value* value) {
  const boost::json::string* text = value == nullptr ? nullptr : value->if_string();
  return text == nullptr ? std::string() : std::string(text->data(), text->size());
}

}  // namespace troupe::cluster
