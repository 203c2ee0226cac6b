// Methods of strings and dicts.

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <iterator>

#include "runtime/text/jinja/builtins.h"
#include "runtime/text/jinja/text_case.h"
#include "runtime/text/utf8.h"

namespace troupe::text::jinja {
namespace {

Result<Value> list_of(Context& context, const std::vector<std::string_view>& parts) {
  List items;
  for (const std::string_view part : parts) {
    TROUPE_RETURN_IF_ERROR(context.budget.fill(part.size() + 16));
    items.emplace_back(part);
  }
  return Value::list(std::move(items));
}

// At runs of white space; what `most` leaves together keeps those at its end.
std::vector<std::string_view> split_at_spaces(std::string_view text, std::int64_t most) {
  std::vector<std::string_view> parts;
  text = stripped(text, Side::kLeft, nullptr);
  while (!text.empty()) {
    if (most >= 0 && static_cast<std::int64_t>(parts.size()) == most) {
      parts.push_back(text);
      break;
    }
    std::size_t end = 0;
    while (end < text.size() && !is_whitespace(character_at(text, end).code_point))
      end += character_at(text, end).bytes;
    parts.push_back(text.substr(0, end));
    text = stripped(text.substr(end), Side::kLeft, nullptr);
  }
  return parts;
}

std::vector<std::string_view> split_at(std::string_view text, std::string_view separator, std::int64_t most) {
  std::vector<std::string_view> parts;
  while (most < 0 || static_cast<std::int64_t>(parts.size()) < most) {
    const std::size_t at = text.find(separator);
    if (at == std::string_view::npos) break;
    parts.push_back(text.substr(0, at));
    text.remove_prefix(at + separator.size());
  }
  parts.push_back(text);
  return parts;
}

std::vector<std::string_view> split_at_from_end(std::string_view text, std::string_view separator, std::int64_t most) {
  std::vector<std::string_view> parts;
  while (most < 0 || static_cast<std::int64_t>(parts.size()) < most) {
    const std::size_t at = text.rfind(separator);
    if (at == std::string_view::npos) break;
    parts.push_back(text.substr(at + separator.size()));
    text = text.substr(0, at);
  }
  parts.push_back(text);
  std::reverse(parts.begin(), parts.end());
  return parts;
}

Result<Value> split(Context& context, std::string_view text, bool from_end, const Arguments& arguments) {
  const Value separator = arguments.at(0, "sep"), most = arguments.at(1, "maxsplit");
  const std::int64_t times = most.whole().second ? most.whole().first : -1;
  if (separator.is_undefined() || separator.is_none()) return list_of(context, split_at_spaces(text, times));
  if (separator.string() == nullptr || separator.string()->empty()) {
    return invalid_argument("split() takes a separator that is not empty");
  }
  const std::string_view at = *separator.string();
  return list_of(context, from_end ? split_at_from_end(text, at, times) : split_at(text, at, times));
}

Result<Value> replaced(Context& context, std::string_view text, const Arguments& arguments) {
  const Value old_text = arguments.at(0, "old"), new_text = arguments.at(1, "new"), most = arguments.at(2, "count");
  if (old_text.string() == nullptr || new_text.string() == nullptr)
    return invalid_argument("replace() takes two strings");
  if (old_text.string()->empty()) return invalid_argument("replace() takes a string that is not empty");
  const std::int64_t times = most.whole().second ? most.whole().first : -1;
  std::string out;
  for (const std::string_view part : split_at(text, *old_text.string(), times)) {
    if (part.data() != text.data()) out += *new_text.string();
    TROUPE_RETURN_IF_ERROR(context.budget.fill(part.size() + new_text.string()->size()));
    out += part;
  }
  return Value(std::move(out));
}

// Of one string, or of any of a list.
Result<Value> begins_or_ends(std::string_view text, std::string_view name, const Arguments& arguments) {
  const Value wanted = arguments.at(0, "prefix");
  const auto fits = [&](const Value& part) {
    return part.string() != nullptr &&
           (name == "startswith" ? text.starts_with(*part.string()) : text.ends_with(*part.string()));
  };
  if (wanted.list() != nullptr) return Value(std::any_of(wanted.list()->begin(), wanted.list()->end(), fits));
  if (wanted.string() == nullptr) return invalid_argument(fmt::format("{}() takes a string", name));
  return Value(fits(wanted));
}

Result<Value> joined(Context& context, std::string_view separator, const Arguments& arguments) {
  const Value items = arguments.at(0, "iterable");
  if (items.list() == nullptr) return invalid_argument("join() takes a list");
  std::string out;
  bool first = true;
  for (const Value& item : *items.list()) {
    if (item.string() == nullptr) return invalid_argument("join() takes a list of strings");
    TROUPE_RETURN_IF_ERROR(context.budget.fill(item.string()->size() + separator.size()));
    if (!first) out += separator;
    first = false;
    out += *item.string();
  }
  return Value(std::move(out));
}

Value found(std::string_view text, std::string_view part, bool from_end) {
  const std::size_t at = from_end ? text.rfind(part) : text.find(part);
  if (at == std::string_view::npos) return Value(std::int64_t{-1});
  return Value(static_cast<std::int64_t>(characters_of(text.substr(0, at)).size()));
}

using StringMethod = Result<Value> (*)(Context&, const std::string&, std::string_view, const Arguments&);

struct NamedMethod {
  std::string_view name;
  StringMethod method;
};

Result<Value> strip(Context&, const std::string& text, std::string_view name, const Arguments& arguments) {
  const Value characters = arguments.at(0, "chars");
  const Side side = name == "strip" ? Side::kBoth : name == "lstrip" ? Side::kLeft : Side::kRight;
  return Value(stripped(text, side, characters.string()));
}

Result<Value> in_case(Context&, const std::string& text, std::string_view name, const Arguments&) {
  if (name == "upper") return Value(upper(text));
  if (name == "lower") return Value(lower(text));
  return Value(name == "title" ? titled(text) : capitalized(text));
}

Result<Value> find_part(Context&, const std::string& text, std::string_view name, const Arguments& arguments) {
  const Value part = arguments.at(0, "sub");
  if (part.string() == nullptr) return invalid_argument(fmt::format("{}() takes a string", name));
  if (name != "count") return found(text, *part.string(), name == "rfind");
  if (part.string()->empty()) return Value(static_cast<std::int64_t>(characters_of(text).size() + 1));
  return Value(static_cast<std::int64_t>(split_at(text, *part.string(), -1).size() - 1));
}

Result<Value> without_end(Context&, const std::string& text, std::string_view name, const Arguments& arguments) {
  const Value part = arguments.at(0, "prefix");
  if (part.string() == nullptr) return invalid_argument(fmt::format("{}() takes a string", name));
  std::string_view rest = text;
  if (name == "removeprefix" && rest.starts_with(*part.string())) rest.remove_prefix(part.string()->size());
  if (name == "removesuffix" && rest.ends_with(*part.string())) rest.remove_suffix(part.string()->size());
  return Value(rest);
}

Result<Value> asks_characters(Context&, const std::string& text, std::string_view name, const Arguments&) {
  const auto characters = characters_of(text);
  const auto fits = [&](std::string_view character) {
    const char32_t code = character_at(character, 0).code_point;
    if (name == "isspace") return is_whitespace(code);
    if (name == "isdigit") return is_numeric(code);
    const bool letter = is_letter(code);
    return name == "isalpha" ? letter : letter || is_numeric(code);
  };
  return Value(!text.empty() && std::all_of(characters.begin(), characters.end(), fits));
}

Result<Value> lines(Context& context, const std::string& text, std::string_view, const Arguments&) {
  std::vector<std::string_view> parts = split_at(text, "\n", -1);
  if (!parts.empty() && parts.back().empty()) parts.pop_back();
  return list_of(context, parts);
}

constexpr NamedMethod kStringMethods[] = {
    {"strip", strip},
    {"lstrip", strip},
    {"rstrip", strip},
    {"upper", in_case},
    {"lower", in_case},
    {"title", in_case},
    {"capitalize", in_case},
    {"find", find_part},
    {"rfind", find_part},
    {"count", find_part},
    {"removeprefix", without_end},
    {"removesuffix", without_end},
    {"isspace", asks_characters},
    {"isdigit", asks_characters},
    {"isalpha", asks_characters},
    {"isalnum", asks_characters},
    {"splitlines", lines},
    {"startswith", [](Context&, const std::string& text, std::string_view name,
                      const Arguments& arguments) { return begins_or_ends(text, name, arguments); }},
    {"endswith", [](Context&, const std::string& text, std::string_view name,
                    const Arguments& arguments) { return begins_or_ends(text, name, arguments); }},
    {"split", [](Context& context, const std::string& text, std::string_view,
                 const Arguments& arguments) { return split(context, text, false, arguments); }},
    {"rsplit", [](Context& context, const std::string& text, std::string_view,
                  const Arguments& arguments) { return split(context, text, true, arguments); }},
    {"replace", [](Context& context, const std::string& text, std::string_view,
                   const Arguments& arguments) { return replaced(context, text, arguments); }},
    {"join", [](Context& context, const std::string& text, std::string_view,
                const Arguments& arguments) { return joined(context, text, arguments); }},
};

const NamedMethod* string_method(std::string_view name) {
  const auto* method =
      std::find_if(std::begin(kStringMethods), std::end(kStringMethods), [&](const auto& m) { return m.name == name; });
  return method == std::end(kStringMethods) ? nullptr : method;
}

bool is_dict_method(std::string_view name) {
  return name == "items" || name == "keys" || name == "values" || name == "get";
}

Result<Value> call_dict_method(Context& context, const Dict& dict, std::string_view name, const Arguments& arguments) {
  if (name == "get") {
    const Value key = arguments.at(0, "key"), otherwise = arguments.at(1, "default");
    const Value* member = key.string() == nullptr ? nullptr : find(dict, *key.string());
    if (member != nullptr) return *member;
    return otherwise.is_undefined() ? Value(None()) : otherwise;
  }
  List items;
  TROUPE_RETURN_IF_ERROR(context.budget.fill(48 * dict.size()));
  for (const auto& [key, value] : dict) {
    if (name == "keys") {
      items.emplace_back(key);
    } else if (name == "values") {
      items.push_back(value);
    } else {
      TROUPE_ASSIGN_OR_RETURN(Value pair, Value::tuple({Value(key), value}));
      items.push_back(std::move(pair));
    }
  }
  return Value::list(std::move(items));
}

}  // namespace

bool is_method(const Value& subject, std::string_view name) {
  if (subject.string() != nullptr) return string_method(name) != nullptr;
  return subject.dict() != nullptr && subject.name_space() == nullptr && is_dict_method(name);
}

Result<Value> call_method(Context& context, const Value& subject, std::string_view name, const Arguments& arguments) {
  if (const std::string* text = subject.string()) {
    const NamedMethod* method = string_method(name);
    if (method != nullptr) {
      TROUPE_RETURN_IF_ERROR(context.budget.fill(text->size()));
      return method->method(context, *text, name, arguments);
    }
  } else if (const Dict* dict = subject.dict(); dict != nullptr && is_dict_method(name)) {
    return call_dict_method(context, *dict, name, arguments);
  }
  return unsupported(fmt::format("{} has no method '{}' here", subject.type_name(), name.substr(0, 64)));
}

}  // namespace troupe::text::jinja
