// Filters of Jinja2 3.1 that chat templates use.

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <iterator>
#include <limits>

#include "runtime/text/jinja/builtins.h"
#include "runtime/text/jinja/text_case.h"

namespace troupe::text::jinja {
namespace {

Error wrong_input(std::string_view filter, const Value& input) {
  return invalid_argument(fmt::format("filter '{}' does nothing with something {}", filter, input.type_name()));
}

// The text of the input, whatever it is.
Result<std::string> text_of(Context& context, const Value& input) {
  TROUPE_RETURN_IF_ERROR(context.budget.fill(2 * input.weight()));
  return to_text(input);
}

// What a loop over the input would give.
Result<List> items_of(Context& context, const Value& input) {
  List items;
  if (const List* list = input.list()) {
    items = *list;
  } else if (const Dict* dict = input.dict()) {
    for (const auto& member : *dict) items.emplace_back(member.first);
  } else if (const std::string* text = input.string()) {
    TROUPE_RETURN_IF_ERROR(context.budget.fill(16 * text->size()));
    for (const std::string_view character : characters_of(*text)) items.emplace_back(character);
  } else if (!input.is_undefined()) {
    return invalid_argument(fmt::format("something {} has no items", input.type_name()));
  }
  TROUPE_RETURN_IF_ERROR(context.budget.fill(16 * items.size()));
  return items;
}

// The member that a path such as "function.name" leads to.
Value attribute_of(const Value& value, std::string_view path) {
  Value at = value;
  while (!path.empty()) {
    const std::size_t dot = std::min(path.find('.'), path.size());
    const Dict* dict = at.dict();
    const Value* member = dict == nullptr ? nullptr : find(*dict, path.substr(0, dot));
    at = member == nullptr ? Value() : *member;
    path.remove_prefix(std::min(dot + 1, path.size()));
  }
  return at;
}

Result<Value> case_filter(Context& context, const Value& input, std::string (*change)(std::string_view)) {
  TROUPE_ASSIGN_OR_RETURN(const std::string text, text_of(context, input));
  return Value(change(text));
}

Result<Value> trim(Context& context, const Value& input, const Arguments& arguments) {
  TROUPE_ASSIGN_OR_RETURN(const std::string text, text_of(context, input));
  const Value characters = arguments.at(0, "chars");
  return Value(stripped(text, Side::kBoth, characters.string()));
}

Result<Value> length(Context&, const Value& input, const Arguments&) {
  if (const List* list = input.list()) return Value(static_cast<std::int64_t>(list->size()));
  if (const Dict* dict = input.dict()) return Value(static_cast<std::int64_t>(dict->size()));
  if (const std::string* text = input.string()) return Value(static_cast<std::int64_t>(characters_of(*text).size()));
  if (input.is_undefined()) return Value(std::int64_t{0});
  return wrong_input("length", input);
}

Result<Value> json_filter(Context& context, const Value& input, const Arguments& arguments) {
  TROUPE_RETURN_IF_ERROR(context.budget.fill(2 * input.weight()));
  const auto [indent, is_given] = arguments.at(1, "indent").whole();
  const int columns = is_given ? static_cast<int>(std::clamp<std::int64_t>(indent, 0, 16)) : -1;
  TROUPE_ASSIGN_OR_RETURN(std::string json, to_json(input, columns));
  TROUPE_RETURN_IF_ERROR(context.budget.fill(json.size()));
  return Value(std::move(json));
}

Result<Value> join(Context& context, const Value& input, const Arguments& arguments) {
  TROUPE_ASSIGN_OR_RETURN(const List items, items_of(context, input));
  const std::string separator = to_text(arguments.at(0, "d"));
  const Value attribute = arguments.at(1, "attribute");
  std::string out;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const Value item = attribute.string() == nullptr ? items[i] : attribute_of(items[i], *attribute.string());
    TROUPE_ASSIGN_OR_RETURN(const std::string text, text_of(context, item));
    TROUPE_RETURN_IF_ERROR(context.budget.fill(separator.size()));
    out += (i == 0 ? "" : separator) + text;
  }
  return Value(std::move(out));
}

Result<Value> default_filter(Context&, const Value& input, const Arguments& arguments) {
  const bool also_false = arguments.at(1, "boolean").is_true();
  if (!input.is_undefined() && (!also_false || input.is_true())) return input;
  const Value otherwise = arguments.at(0, "default_value");
  return otherwise.is_undefined() ? Value("") : otherwise;
}

Result<Value> first(Context& context, const Value& input, const Arguments&) {
  TROUPE_ASSIGN_OR_RETURN(const List items, items_of(context, input));
  return items.empty() ? Value() : items.front();
}

Result<Value> last(Context& context, const Value& input, const Arguments&) {
  TROUPE_ASSIGN_OR_RETURN(const List items, items_of(context, input));
  return items.empty() ? Value() : items.back();
}

Result<Value> list_filter(Context& context, const Value& input, const Arguments&) {
  TROUPE_ASSIGN_OR_RETURN(List items, items_of(context, input));
  return Value::list(std::move(items));
}

Result<Value> reverse(Context& context, const Value& input, const Arguments&) {
  TROUPE_ASSIGN_OR_RETURN(List items, items_of(context, input));
  std::reverse(items.begin(), items.end());
  if (input.string() == nullptr) return Value::list(std::move(items));
  std::string out;
  for (const Value& item : items) out += *item.string();
  return Value(std::move(out));
}

Result<Value> items_filter(Context& context, const Value& input, const Arguments&) {
  if (input.is_undefined()) return Value::list({});
  if (input.dict() == nullptr) return wrong_input("items", input);
  return call_method(context, input, "items", {});
}

Result<Value> dictsort(Context& context, const Value& input, const Arguments&) {
  if (input.dict() == nullptr) return wrong_input("dictsort", input);
  Dict members = *input.dict();
  std::stable_sort(members.begin(), members.end(),
                   [](const auto& a, const auto& b) { return lower(a.first) < lower(b.first); });
  TROUPE_ASSIGN_OR_RETURN(const Value sorted, Value::dict(std::move(members)));
  return call_method(context, sorted, "items", {});
}

Result<Value> sort(Context& context, const Value& input, const Arguments& arguments) {
  TROUPE_ASSIGN_OR_RETURN(List items, items_of(context, input));
  const bool descending = arguments.at(0, "reverse").is_true(), exact = arguments.at(1, "case_sensitive").is_true();
  const Value attribute = arguments.at(2, "attribute");
  std::vector<std::pair<Value, Value>> keyed;  // what is compared, and the item
  for (const Value& item : items) {
    Value key = attribute.string() == nullptr ? item : attribute_of(item, *attribute.string());
    if (!exact && key.string() != nullptr) key = Value(lower(*key.string()));
    if (key.string() == nullptr && !key.is_number()) return wrong_input("sort", key);
    if (!keyed.empty() && (keyed[0].first.string() == nullptr) != (key.string() == nullptr)) {
      return invalid_argument("filter 'sort' needs items of one kind");
    }
    TROUPE_RETURN_IF_ERROR(context.budget.fill(32 * key.weight()));
    keyed.emplace_back(std::move(key), item);
  }
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return descending ? *less(b.first, a.first) : *less(a.first, b.first);
  });
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = keyed[i].second;
  return Value::list(std::move(items));
}

Result<Value> unique(Context& context, const Value& input, const Arguments&) {
  TROUPE_ASSIGN_OR_RETURN(const List items, items_of(context, input));
  List kept;
  for (const Value& item : items) {
    bool known = false;
    for (const Value& other : kept) {
      TROUPE_RETURN_IF_ERROR(context.budget.fill(16 + item.weight()));
      known = known || equal(item, other);
    }
    if (!known) kept.push_back(item);
  }
  return Value::list(std::move(kept));
}

Result<Value> string_filter(Context& context, const Value& input, const Arguments&) {
  TROUPE_ASSIGN_OR_RETURN(std::string text, text_of(context, input));
  return Value(std::move(text));
}

Result<Value> whole_number(Context&, const Value& input, const Arguments& arguments) {
  if (input.whole().second) return Value(input.whole().first);
  double number = std::nan("");
  if (input.number() != nullptr) number = *input.number();
  if (const std::string* text = input.string()) {
    const std::string_view digits = stripped(*text, Side::kBoth, nullptr);
    std::int64_t whole = 0;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), whole);
    if (parsed.ec == std::errc() && parsed.ptr == digits.data() + digits.size()) return Value(whole);
    const auto with_point = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (with_point.ec != std::errc() || with_point.ptr != digits.data() + digits.size()) number = std::nan("");
  }
  if (std::abs(number) < 9e18) return Value(static_cast<std::int64_t>(number));
  const Value otherwise = arguments.at(0, "default");
  return otherwise.is_undefined() ? Value(std::int64_t{0}) : otherwise;
}

Result<Value> float_filter(Context&, const Value& input, const Arguments& arguments) {
  if (input.is_number()) return Value(input.as_double());
  if (const std::string* text = input.string()) {
    const std::string_view digits = stripped(*text, Side::kBoth, nullptr);
    double number = 0;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (parsed.ec == std::errc() && parsed.ptr == digits.data() + digits.size()) return Value(number);
  }
  const Value otherwise = arguments.at(0, "default");
  return otherwise.is_undefined() ? Value(0.0) : otherwise;
}

Result<Value> absolute(Context&, const Value& input, const Arguments&) {
  if (input.number() != nullptr) return Value(std::abs(*input.number()));
  const auto [whole, is_whole] = input.whole();
  if (!is_whole || whole == std::numeric_limits<std::int64_t>::min()) return wrong_input("abs", input);
  return Value(whole < 0 ? -whole : whole);
}

Result<Value> replace(Context& context, const Value& input, const Arguments& arguments) {
  TROUPE_ASSIGN_OR_RETURN(std::string text, text_of(context, input));
  return call_method(context, Value(std::move(text)), "replace", arguments);
}

Result<Value> indent(Context& context, const Value& input, const Arguments& arguments) {
  TROUPE_ASSIGN_OR_RETURN(const std::string text, text_of(context, input));
  const Value width = arguments.at(0, "width");
  const bool first_line = arguments.at(1, "first").is_true(), blank_lines = arguments.at(2, "blank").is_true();
  const std::int64_t columns = width.whole().second ? std::clamp<std::int64_t>(width.whole().first, 0, 256) : 4;
  const std::string margin = width.string() != nullptr ? *width.string() : std::string(columns, ' ');
  std::string out;
  for (std::size_t at = 0, line = 0; at <= text.size(); ++line) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    TROUPE_RETURN_IF_ERROR(context.budget.fill(margin.size() + 1));
    if (line == 0 ? first_line : blank_lines || end > at) out += margin;
    out.append(text, at, end - at);
    if (end < text.size()) out += '\n';
    at = end + 1;
  }
  return Value(std::move(out));
}

// map(attribute='a'), map('upper').
Result<Value> map(Context& context, const Value& input, const Arguments& arguments) {
  TROUPE_ASSIGN_OR_RETURN(List items, items_of(context, input));
  const Value attribute = arguments.at(arguments.positional.size(), "attribute");
  if (attribute.string() != nullptr) {
    const Value otherwise = arguments.at(arguments.positional.size(), "default");
    for (Value& item : items) {
      item = attribute_of(item, *attribute.string());
      if (item.is_undefined()) item = otherwise;
    }
    return Value::list(std::move(items));
  }
  const Value name = arguments.at(0, "filter");
  const Filter filter = name.string() == nullptr ? nullptr : find_filter(*name.string());
  if (filter == nullptr)
    return invalid_argument("filter 'map' needs an attribute, or the name of a filter that is known");
  Arguments rest = arguments;
  rest.positional.erase(rest.positional.begin());
  for (Value& item : items) {
    TROUPE_RETURN_IF_ERROR(context.budget.step());
    TROUPE_ASSIGN_OR_RETURN(item, filter(context, item, rest));
  }
  return Value::list(std::move(items));
}

// The items of which a test, or that they are true, has the answer `wanted`: of an attribute, or of themselves.
Result<Value> chosen(Context& context, const Value& input, const Arguments& arguments, bool by_attribute, bool wanted) {
  TROUPE_ASSIGN_OR_RETURN(const List items, items_of(context, input));
  Arguments rest = arguments;
  std::string path;
  if (by_attribute) {
    const Value attribute = arguments.at(0, "attribute");
    if (attribute.string() == nullptr) return invalid_argument("a filter by attribute needs the attribute's name");
    path = *attribute.string();
    if (!rest.positional.empty()) rest.positional.erase(rest.positional.begin());
  }
  Test test = nullptr;
  if (!rest.positional.empty()) {
    const Value name = rest.positional.front();
    test = name.string() == nullptr ? nullptr : find_test(*name.string());
    if (test == nullptr) return invalid_argument("a filter needs the name of a test that is known");
    rest.positional.erase(rest.positional.begin());
  }
  List kept;
  for (const Value& item : items) {
    const Value subject = by_attribute ? attribute_of(item, path) : item;
    TROUPE_RETURN_IF_ERROR(context.budget.fill(16 + subject.weight()));
    bool answer = subject.is_true();
    if (test != nullptr) {
      TROUPE_ASSIGN_OR_RETURN(answer, test(subject, rest));
    }
    if (answer == wanted) kept.push_back(item);
  }
  return Value::list(std::move(kept));
}

struct NamedFilter {
  std::string_view name;
  Filter filter;
};

constexpr NamedFilter kFilters[] = {
    {"abs", absolute},
    {"capitalize", [](Context& c, const Value& in, const Arguments&) { return case_filter(c, in, capitalized); }},
    {"count", length},
    {"d", default_filter},
    {"default", default_filter},
    {"dictsort", dictsort},
    {"first", first},
    {"float", float_filter},
    {"indent", indent},
    {"int", whole_number},
    {"items", items_filter},
    {"join", join},
    {"last", last},
    {"length", length},
    {"list", list_filter},
    {"lower", [](Context& c, const Value& in, const Arguments&) { return case_filter(c, in, lower); }},
    {"map", map},
    {"reject", [](Context& c, const Value& in, const Arguments& a) { return chosen(c, in, a, false, false); }},
    {"rejectattr", [](Context& c, const Value& in, const Arguments& a) { return chosen(c, in, a, true, false); }},
    {"replace", replace},
    {"reverse", reverse},
    {"safe", string_filter},
    {"select", [](Context& c, const Value& in, const Arguments& a) { return chosen(c, in, a, false, true); }},
    {"selectattr", [](Context& c, const Value& in, const Arguments& a) { return chosen(c, in, a, true, true); }},
    {"sort", sort},
    {"string", string_filter},
    {"title", [](Context& c, const Value& in, const Arguments&) { return case_filter(c, in, titled); }},
    {"tojson", json_filter},
    {"trim", trim},
    {"unique", unique},
    {"upper", [](Context& c, const Value& in, const Arguments&) { return case_filter(c, in, upper); }},
};

}  // namespace

Filter find_filter(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(kFilters), std::end(kFilters), [&](const NamedFilter& f) { return f.name == name; });
  return found == std::end(kFilters) ? nullptr : found->filter;
}

}  // namespace troupe::text::jinja
