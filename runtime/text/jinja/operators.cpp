#include "runtime/text/jinja/operators.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <vector>

#include "runtime/text/jinja/builtins.h"

namespace troupe::text::jinja {
namespace {

Error out_of_range(std::string_view word) {
  return invalid_argument(fmt::format("the result of '{}' is out of range", word));
}

// Of Python: rounded down, and the remainder with the sign of the divisor.
Result<Value> floor_divide(std::string_view word, std::int64_t left, std::int64_t right) {
  if (right == 0) return invalid_argument("division by zero");
  if (left == std::numeric_limits<std::int64_t>::min() && right == -1) return out_of_range(word);
  const std::int64_t quotient = left / right, remainder = left % right;
  const bool adjust = remainder != 0 && (remainder < 0) != (right < 0);
  return word == "//" ? Value(quotient - (adjust ? 1 : 0)) : Value(adjust ? remainder + right : remainder);
}

Result<Value> power(std::int64_t base, std::int64_t exponent) {
  std::int64_t result = 1;
  for (; exponent > 0; --exponent) {
    if (__builtin_mul_overflow(result, base, &result)) return out_of_range("**");
    if (result == 0 || result == 1) break;
    if (result == -1) return Value(exponent % 2 == 1 ? result : -result);
  }
  return Value(result);
}

Result<Value> operate_whole(std::string_view word, std::int64_t left, std::int64_t right) {
  std::int64_t result = 0;
  bool overflow = false;
  if (word == "+") {
    overflow = __builtin_add_overflow(left, right, &result);
  } else if (word == "-") {
    overflow = __builtin_sub_overflow(left, right, &result);
  } else if (word == "*") {
    overflow = __builtin_mul_overflow(left, right, &result);
  } else if (word == "**") {
    return power(left, right);
  } else {
    return floor_divide(word, left, right);
  }
  if (overflow) return out_of_range(word);
  return Value(result);
}

Result<Value> operate_numbers(std::string_view word, const Value& left, const Value& right) {
  const auto [a, a_whole] = left.whole();
  const auto [b, b_whole] = right.whole();
  if (a_whole && b_whole && word != "/" && !(word == "**" && b < 0)) return operate_whole(word, a, b);
  const double x = left.as_double(), y = right.as_double();
  if (word == "+") return Value(x + y);
  if (word == "-") return Value(x - y);
  if (word == "*") return Value(x * y);
  if (word == "**") return Value(std::pow(x, y));
  if (y == 0) return invalid_argument("division by zero");
  if (word == "/") return Value(x / y);
  const double quotient = std::floor(x / y);
  return Value(word == "//" ? quotient : x - quotient * y);
}

Result<Value> joined(Budget& budget, const Value& left, const Value& right) {
  TROUPE_RETURN_IF_ERROR(budget.fill(left.weight() + right.weight()));
  return Value(to_text(left) + to_text(right));
}

Result<Value> repeated(Budget& budget, const std::string& text, std::int64_t times) {
  std::string result;
  if (times <= 0 || text.empty()) return Value(result);
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(text.size(), static_cast<std::uint64_t>(times), &bytes)) return out_of_range("*");
  TROUPE_RETURN_IF_ERROR(budget.fill(bytes));
  result.reserve(bytes);
  for (; times > 0; --times) result += text;
  return Value(std::move(result));
}

Result<bool> contains(const Value& container, const Value& value) {
  if (const std::string* text = container.string()) {
    if (value.string() == nullptr) {
      return invalid_argument(fmt::format("'in' a string asks for a string, not for something {}", value.type_name()));
    }
    return text->find(*value.string()) != std::string::npos;
  }
  if (const List* list = container.list()) {
    for (const Value& item : *list) {
      if (equal(item, value)) return true;
    }
    return false;
  }
  if (const Dict* dict = container.dict()) return value.string() != nullptr && find(*dict, *value.string()) != nullptr;
  if (container.is_undefined()) return false;
  return invalid_argument(fmt::format("nothing is 'in' something {}", container.type_name()));
}

// Where an index counts from the end if it is negative; nullopt when there is no such item.
std::optional<std::size_t> place(std::int64_t index, std::size_t size) {
  const auto signed_size = static_cast<std::int64_t>(size);
  if (index < 0) index += signed_size;
  if (index < 0 || index >= signed_size) return std::nullopt;
  return static_cast<std::size_t>(index);
}

// The places that [first:last:step] takes, in order.
Result<std::vector<std::size_t>> places(std::size_t size, const Value& first, const Value& last, const Value& step) {
  const auto number = [](const Value& value, std::int64_t otherwise) -> Result<std::int64_t> {
    if (value.is_none()) return otherwise;
    const auto [whole, is_whole] = value.whole();
    if (!is_whole) return invalid_argument("the bounds of a slice are whole numbers");
    return whole;
  };
  const auto length = static_cast<std::int64_t>(size);
  TROUPE_ASSIGN_OR_RETURN(const std::int64_t stride, number(step, 1));
  if (stride == 0) return invalid_argument("the step of a slice is not zero");
  const std::int64_t low = stride > 0 ? 0 : -1, high = stride > 0 ? length : length - 1;
  const auto bound = [&](const Value& value, std::int64_t otherwise) -> Result<std::int64_t> {
    if (value.is_none()) return otherwise;
    TROUPE_ASSIGN_OR_RETURN(const std::int64_t given, number(value, 0));
    return std::clamp(given < 0 ? std::max(given, -length - 1) + length : given, low, high);
  };
  TROUPE_ASSIGN_OR_RETURN(const std::int64_t begin, bound(first, stride > 0 ? low : high));
  TROUPE_ASSIGN_OR_RETURN(const std::int64_t end, bound(last, stride > 0 ? high : low));
  std::vector<std::size_t> taken;
  for (std::int64_t at = begin; stride > 0 ? at < end : at > end;) {
    taken.push_back(static_cast<std::size_t>(at));
    if (__builtin_add_overflow(at, stride, &at)) break;
  }
  return taken;
}

}  // namespace

Result<Value> operate(Budget& budget, std::string_view word, const Value& left, const Value& right) {
  if (word == "~") return joined(budget, left, right);
  if (left.is_number() && right.is_number()) return operate_numbers(word, left, right);
  if (word == "+" && left.string() != nullptr && right.string() != nullptr) return joined(budget, left, right);
  if (word == "+" && left.list() != nullptr && right.list() != nullptr) {
    TROUPE_RETURN_IF_ERROR(budget.fill(16 * (left.list()->size() + right.list()->size())));
    List items = *left.list();
    items.insert(items.end(), right.list()->begin(), right.list()->end());
    return Value::list(std::move(items));
  }
  if (word == "*" && left.string() != nullptr && right.whole().second) {
    return repeated(budget, *left.string(), right.whole().first);
  }
  if (word == "*" && right.string() != nullptr && left.whole().second) {
    return repeated(budget, *right.string(), left.whole().first);
  }
  return invalid_argument(
      fmt::format("'{}' does not go together with {} and {}", word, left.type_name(), right.type_name()));
}

Result<bool> compare(Budget& budget, std::string_view word, const Value& left, const Value& right) {
  TROUPE_RETURN_IF_ERROR(budget.fill(left.weight() + right.weight()));
  if (word == "==") return equal(left, right);
  if (word == "!=") return !equal(left, right);
  if (word == "in") return contains(right, left);
  if (word == "not in") {
    TROUPE_ASSIGN_OR_RETURN(const bool found, contains(right, left));
    return !found;
  }
  if (word == "<" || word == ">=") {
    TROUPE_ASSIGN_OR_RETURN(const bool is_less, less(left, right));
    return is_less == (word == "<");
  }
  TROUPE_ASSIGN_OR_RETURN(const bool is_greater, less(right, left));
  return is_greater == (word == ">");
}

Result<Value> negative(const Value& value) {
  if (const double* number = value.number()) return Value(-*number);
  const auto [whole, is_whole] = value.whole();
  if (!is_whole) return invalid_argument(fmt::format("there is no negative of something {}", value.type_name()));
  return operate_whole("-", 0, whole);
}

Result<Value> item(Budget& budget, const Value& subject, const Value& key) {
  if (subject.is_undefined()) return invalid_argument("something undefined has no members");
  if (const Dict* dict = subject.dict()) {
    const Value* found = key.string() == nullptr ? nullptr : find(*dict, *key.string());
    return found == nullptr ? Value() : *found;
  }
  const auto [index, is_whole] = key.whole();
  if (!is_whole) return Value();
  if (const List* list = subject.list()) {
    const auto at = place(index, list->size());
    return at ? (*list)[*at] : Value();
  }
  if (const std::string* text = subject.string()) {
    TROUPE_RETURN_IF_ERROR(budget.fill(16 * text->size()));
    const auto characters = characters_of(*text);
    const auto at = place(index, characters.size());
    return at ? Value(characters[*at]) : Value();
  }
  return Value();
}

Result<Value> slice(Budget& budget, const Value& subject, const Value& first, const Value& last, const Value& step) {
  if (const List* list = subject.list()) {
    TROUPE_ASSIGN_OR_RETURN(const auto taken, places(list->size(), first, last, step));
    TROUPE_RETURN_IF_ERROR(budget.fill(16 * taken.size()));
    List items;
    for (const std::size_t at : taken) items.push_back((*list)[at]);
    return Value::list(std::move(items));
  }
  if (const std::string* text = subject.string()) {
    TROUPE_RETURN_IF_ERROR(budget.fill(16 * text->size()));
    const auto characters = characters_of(*text);
    TROUPE_ASSIGN_OR_RETURN(const auto taken, places(characters.size(), first, last, step));
    std::string out;
    for (const std::size_t at : taken) out += characters[at];
    return Value(std::move(out));
  }
  return invalid_argument(fmt::format("there are no slices of something {}", subject.type_name()));
}

}  // namespace troupe::text::jinja
