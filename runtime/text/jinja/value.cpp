#include "runtime/text/jinja/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace troupe::text::jinja {
namespace {

Result<std::uint32_t> depth_with(const Value& value, std::uint32_t so_far) {
  if (value.name_space() != nullptr) return invalid_argument("a namespace cannot be part of a list, dict or namespace");
  const std::uint32_t depth = std::max(so_far, value.depth() + 1);
  if (depth > kMaxValueDepth) {
    return resource_exhausted(fmt::format("lists and dicts are nested deeper than {}", kMaxValueDepth));
  }
  return depth;
}

// No more than the half of what fits, so that sums of two do not overflow.
std::size_t sum_of_weights(std::size_t left, std::size_t right) {
  return std::min(left + right, std::numeric_limits<std::size_t>::max() / 2);
}

std::string float_text(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number > 0 ? "inf" : "-inf";
  std::string text = fmt::format("{}", number);
  if (text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

void append_repr(std::string& out, std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  out += quote;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c == '\\' || c == quote) {
      out += '\\';
      out += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      out += fmt::format("\\x{:02x}", byte);
    } else {
      out += c;
    }
  }
  out += quote;
}

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      case '\b': out += "\\b"; break;
      case '\f': out += "\\f"; break;
      default:
        if (byte < 0x20) {
          out += fmt::format("\\u{:04x}", byte);
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

// Writes JSON as Python's json module lays it out.
class JsonWriter {
 public:
  explicit JsonWriter(int indent) : indent_(indent) {}

  Result<void> write(const Value& value, int level) {
    if (value.is_none()) {
      out_ += "null";
    } else if (const bool* boolean = value.boolean()) {
      out_ += *boolean ? "true" : "false";
    } else if (const std::string* text = value.string()) {
      append_json_string(out_, *text);
    } else if (value.is_number()) {
      out_ += to_text(value);
    } else if (const List* list = value.list()) {
      return write_all(*list, '[', ']', level, [&](const Value& item) { return write(item, level + 1); });
    } else if (value.dict() != nullptr && value.name_space() == nullptr) {
      return write_all(*value.dict(), '{', '}', level, [&](const auto& member) {
        append_json_string(out_, member.first);
        out_ += ": ";
        return write(member.second, level + 1);
      });
    } else {
      return invalid_argument(fmt::format("there is no JSON for something {}", value.type_name()));
    }
    return {};
  }

  std::string take() { return std::move(out_); }

 private:
  template <class Items, class WriteItem>
  Result<void> write_all(const Items& items, char open, char close, int level, const WriteItem& write_item) {
    out_ += open;
    bool first = true;
    for (const auto& item : items) {
      if (!first) out_ += indent_ < 0 ? ", " : ",";
      first = false;
      new_line(level + 1);
      TROUPE_RETURN_IF_ERROR(write_item(item));
    }
    if (!items.empty()) new_line(level);
    out_ += close;
    return {};
  }

  void new_line(int level) {
    if (indent_ < 0) return;
    out_ += '\n';
    out_.append(static_cast<std::size_t>(indent_) * static_cast<std::size_t>(level), ' ');
  }

  const int indent_;
  std::string out_;
};

}  // namespace

Result<Value> Value::list(List items) { return sequence(std::move(items), false); }
Result<Value> Value::tuple(List items) { return sequence(std::move(items), true); }

Result<Value> Value::sequence(List items, bool is_tuple) {
  std::uint32_t depth = 1;
  std::size_t weight = 16;
  for (const Value& item : items) {
    TROUPE_ASSIGN_OR_RETURN(depth, depth_with(item, depth));
    weight = sum_of_weights(weight, item.weight() + 16);
  }
  Value value;
  value.data_ = std::make_shared<const ListNode>(ListNode{std::move(items), is_tuple, depth, weight});
  return value;
}

Result<Value> Value::dict(Dict members) {
  std::uint32_t depth = 1;
  std::size_t weight = 16;
  for (const auto& [key, member] : members) {
    TROUPE_ASSIGN_OR_RETURN(depth, depth_with(member, depth));
    weight = sum_of_weights(weight, sum_of_weights(member.weight(), key.size() + 16));
  }
  Value value;
  value.data_ = std::make_shared<const DictNode>(DictNode{std::move(members), depth, weight});
  return value;
}

const std::string* Value::string() const {
  const auto* text = std::get_if<std::shared_ptr<const std::string>>(&data_);
  return text == nullptr ? nullptr : text->get();
}

const List* Value::list() const {
  const auto* node = std::get_if<std::shared_ptr<const ListNode>>(&data_);
  return node == nullptr ? nullptr : &(*node)->items;
}

bool Value::is_tuple() const {
  const auto* node = std::get_if<std::shared_ptr<const ListNode>>(&data_);
  return node != nullptr && (*node)->is_tuple;
}

const Dict* Value::dict() const {
  if (const auto* node = std::get_if<std::shared_ptr<const DictNode>>(&data_)) return &(*node)->members;
  const Namespace* space = name_space();
  return space == nullptr ? nullptr : &space->members;
}

Namespace* Value::name_space() const {
  const auto* space = std::get_if<std::shared_ptr<Namespace>>(&data_);
  return space == nullptr ? nullptr : space->get();
}

std::pair<std::int64_t, bool> Value::whole() const {
  if (const bool* value = boolean()) return {*value ? 1 : 0, true};
  if (const std::int64_t* value = integer()) return {*value, true};
  return {0, false};
}

double Value::as_double() const {
  if (const double* value = number()) return *value;
  return static_cast<double>(whole().first);
}

bool Value::is_true() const {
  if (is_undefined() || is_none()) return false;
  if (is_number()) return as_double() != 0;
  if (const std::string* text = string()) return !text->empty();
  if (const List* items = list()) return !items->empty();
  if (name_space() == nullptr && dict() != nullptr) return !dict()->empty();
  return true;
}

std::string_view Value::type_name() const {
  if (is_undefined()) return "undefined";
  if (is_none()) return "none";
  if (boolean() != nullptr) return "boolean";
  if (integer() != nullptr) return "integer";
  if (number() != nullptr) return "float";
  if (string() != nullptr) return "string";
  if (list() != nullptr) return "list";
  if (name_space() != nullptr) return "namespace";
  if (dict() != nullptr) return "dict";
  return "function";
}

std::uint32_t Value::depth() const {
  if (const auto* node = std::get_if<std::shared_ptr<const ListNode>>(&data_)) return (*node)->depth;
  if (const auto* node = std::get_if<std::shared_ptr<const DictNode>>(&data_)) return (*node)->depth;
  return 0;
}

std::size_t Value::weight() const {
  if (const std::string* text = string()) return text->size();
  if (const auto* node = std::get_if<std::shared_ptr<const ListNode>>(&data_)) return (*node)->weight;
  if (const auto* node = std::get_if<std::shared_ptr<const DictNode>>(&data_)) return (*node)->weight;
  return 0;
}

const Value* find(const Dict& dict, std::string_view key) {
  for (const auto& [name, value] : dict) {
    if (name == key) return &value;
  }
  return nullptr;
}

void assign(Dict& dict, std::string_view key, Value value) {
  for (auto& [name, old] : dict) {
    if (name != key) continue;
    old = std::move(value);
    return;
  }
  dict.emplace_back(std::string(key), std::move(value));
}

bool equal(const Value& left, const Value& right) {
  if (left.is_number() && right.is_number()) {
    const auto [a, a_whole] = left.whole();
    const auto [b, b_whole] = right.whole();
    return a_whole && b_whole ? a == b : left.as_double() == right.as_double();
  }
  if (left.string() != nullptr && right.string() != nullptr) return *left.string() == *right.string();
  if (left.list() != nullptr && right.list() != nullptr) {
    return std::equal(left.list()->begin(), left.list()->end(), right.list()->begin(), right.list()->end(), equal);
  }
  if (left.name_space() != nullptr || right.name_space() != nullptr) return left.name_space() == right.name_space();
  if (left.dict() != nullptr && right.dict() != nullptr) {
    if (left.dict()->size() != right.dict()->size()) return false;
    return std::all_of(left.dict()->begin(), left.dict()->end(), [&](const auto& member) {
      const Value* other = find(*right.dict(), member.first);
      return other != nullptr && equal(member.second, *other);
    });
  }
  return (left.is_none() && right.is_none()) || (left.is_undefined() && right.is_undefined());
}

Result<bool> less(const Value& left, const Value& right) {
  if (left.is_number() && right.is_number()) {
    const auto [a, a_whole] = left.whole();
    const auto [b, b_whole] = right.whole();
    return a_whole && b_whole ? a < b : left.as_double() < right.as_double();
  }
  if (left.string() != nullptr && right.string() != nullptr) return *left.string() < *right.string();
  if (left.list() != nullptr && right.list() != nullptr) {
    const std::size_t common = std::min(left.list()->size(), right.list()->size());
    for (std::size_t i = 0; i < common; ++i) {
      const Value &a = (*left.list())[i], &b = (*right.list())[i];
      if (!equal(a, b)) return less(a, b);
    }
    return left.list()->size() < right.list()->size();
  }
  return invalid_argument(fmt::format("there is no order between {} and {}", left.type_name(), right.type_name()));
}

std::string to_text(const Value& value) {
  if (value.is_undefined()) return {};
  if (const std::string* text = value.string()) return *text;
  return to_repr(value);
}

std::string to_repr(const Value& value) {
  if (value.is_undefined()) return "Undefined";
  if (value.is_none()) return "None";
  if (const bool* boolean = value.boolean()) return *boolean ? "True" : "False";
  if (const std::int64_t* integer = value.integer()) return fmt::format("{}", *integer);
  if (const double* number = value.number()) return float_text(*number);
  std::string out;
  if (const std::string* text = value.string()) {
    append_repr(out, *text);
  } else if (const List* list = value.list()) {
    for (const Value& item : *list) out += (out.empty() ? "" : ", ") + to_repr(item);
    const bool one = value.is_tuple() && list->size() == 1;
    out = value.is_tuple() ? "(" + out + (one ? ",)" : ")") : "[" + out + "]";
  } else if (value.dict() != nullptr && value.name_space() == nullptr) {
    for (const auto& [key, member] : *value.dict()) {
      if (!out.empty()) out += ", ";
      append_repr(out, key);
      out += ": " + to_repr(member);
    }
    out = "{" + out + "}";
  } else {
    out = fmt::format("<{}>", value.type_name());
  }
  return out;
}

Result<std::string> to_json(const Value& value, int indent) {
  JsonWriter writer(indent);
  TROUPE_RETURN_IF_ERROR(writer.write(value, 0));
  return writer.take();
}

}  // namespace troupe::text::jinja
