#include "actors/gateway/template_arguments.h"

#include <boost/json.hpp>

#include <utility>

namespace troupe {
namespace {

namespace json = boost::json;
namespace jinja = text::jinja;

constexpr std::string_view kField = "chat_template_kwargs";

// How deep it is nested was checked when the body was parsed.
Result<jinja::Value> template_value(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null: return jinja::Value(jinja::None());
    case json::kind::bool_: return jinja::Value(value.get_bool());
    case json::kind::int64: return jinja::Value(static_cast<std::int64_t>(value.get_int64()));
    case json::kind::uint64: return jinja::Value(static_cast<double>(value.get_uint64()));
    case json::kind::double_: return jinja::Value(value.get_double());
    case json::kind::string: return jinja::Value(std::string_view(value.get_string()));
    case json::kind::array: {
      jinja::List items;
      for (const json::value& element : value.get_array()) {
        TROUPE_ASSIGN_OR_RETURN(jinja::Value item, template_value(element));
        items.push_back(std::move(item));
      }
      return jinja::Value::list(std::move(items));
    }
    case json::kind::object: break;
  }
  jinja::Dict members;
  for (const auto& member : value.get_object()) {
    TROUPE_ASSIGN_OR_RETURN(jinja::Value item, template_value(member.value()));
    members.emplace_back(std::string(member.key()), std::move(item));
  }
  return jinja::Value::dict(std::move(members));
}

}  // namespace

Result<jinja::Dict> read_template_arguments(JsonFields& fields) {
  const std::string param = fields.param(kField);
  const json::value* given = fields.find(kField);
  if (given == nullptr) return jinja::Dict();
  if (!given->is_object()) return invalid_argument(param + " must be an object", param);
  for (const std::string_view name : {"messages", "add_generation_prompt"}) {
    if (given->get_object().contains(name)) {
      return invalid_argument("the template is given " + std::string(name) + " by the request itself",
                              param + "." + std::string(name));
    }
  }
  for (const std::string_view name : {"tools", "documents"}) {
    if (given->get_object().contains(name)) {
      return unsupported(std::string(name) + " are not supported", param + "." + std::string(name));
    }
  }
  TROUPE_ASSIGN_OR_RETURN(const jinja::Value value, template_value(*given));
  return *value.dict();
}

}  // namespace troupe
