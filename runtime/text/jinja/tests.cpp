// Tests of Jinja2 3.1 that chat templates use: `subject is name`.

#include <algorithm>
#include <iterator>

#include "runtime/text/jinja/builtins.h"
#include "runtime/text/jinja/text_case.h"

namespace troupe::text::jinja {
namespace {

template <bool (*holds)(const Value&)>
Result<bool> asks(const Value& subject, const Arguments&) {
  return holds(subject);
}

Result<bool> parity(const Value& subject, std::int64_t remainder) {
  const auto [whole, is_whole] = subject.whole();
  if (!is_whole) return invalid_argument("only whole numbers are odd or even");
  return (whole & 1) == remainder;
}

Result<bool> divisible(const Value& subject, const Arguments& arguments) {
  const auto [whole, is_whole] = subject.whole();
  const auto [divisor, is_divisor] = arguments.at(0, "num").whole();
  if (!is_whole || !is_divisor || divisor == 0) return invalid_argument("'divisibleby' needs whole numbers");
  return divisor == -1 || whole % divisor == 0;
}

Result<bool> within(const Value& subject, const Arguments& arguments) {
  const Value container = arguments.at(0, "seq");
  if (const std::string* text = container.string()) {
    return subject.string() != nullptr && text->find(*subject.string()) != std::string::npos;
  }
  if (const List* list = container.list()) {
    return std::any_of(list->begin(), list->end(), [&](const Value& item) { return equal(item, subject); });
  }
  const Dict* dict = container.dict();
  return dict != nullptr && subject.string() != nullptr && find(*dict, *subject.string()) != nullptr;
}

bool is_defined(const Value& v) { return !v.is_undefined(); }
bool is_undefined(const Value& v) { return v.is_undefined(); }
bool is_none(const Value& v) { return v.is_none(); }
bool is_string(const Value& v) { return v.string() != nullptr; }
bool is_mapping(const Value& v) { return v.dict() != nullptr && v.name_space() == nullptr; }
// What has items, undefined things too: an empty loop is no error.
bool is_iterable(const Value& v) { return v.string() || v.list() || is_mapping(v) || v.is_undefined(); }
bool is_sequence(const Value& v) { return is_iterable(v); }
bool is_number(const Value& v) { return v.is_number(); }
bool is_integer(const Value& v) { return v.integer() != nullptr; }
bool is_float(const Value& v) { return v.number() != nullptr; }
bool is_boolean(const Value& v) { return v.boolean() != nullptr; }
bool is_true(const Value& v) { return v.boolean() != nullptr && *v.boolean(); }
bool is_false(const Value& v) { return v.boolean() != nullptr && !*v.boolean(); }
bool is_callable(const Value& v) { return v.callable() != nullptr; }
bool is_lower(const Value& v) { return lower(to_text(v)) == to_text(v); }
bool is_upper(const Value& v) { return upper(to_text(v)) == to_text(v); }

template <bool (*holds)(const Value&, const Value&), bool wanted>
Result<bool> compares(const Value& subject, const Arguments& arguments) {
  return holds(subject, arguments.at(0, "other")) == wanted;
}

Result<bool> ordered(const Value& subject, const Arguments& arguments, bool turned, bool wanted) {
  const Value other = arguments.at(0, "other");
  TROUPE_ASSIGN_OR_RETURN(const bool is_less, turned ? less(other, subject) : less(subject, other));
  return is_less == wanted;
}

constexpr Test kEqual = compares<equal, true>, kUnequal = compares<equal, false>;
constexpr Test kLess = [](const Value& v, const Arguments& a) { return ordered(v, a, false, true); };
constexpr Test kAtLeast = [](const Value& v, const Arguments& a) { return ordered(v, a, false, false); };
constexpr Test kGreater = [](const Value& v, const Arguments& a) { return ordered(v, a, true, true); };
constexpr Test kAtMost = [](const Value& v, const Arguments& a) { return ordered(v, a, true, false); };

struct NamedTest {
  std::string_view name;
  Test test;
};

constexpr NamedTest kTests[] = {
    {"boolean", asks<is_boolean>},
    {"callable", asks<is_callable>},
    {"defined", asks<is_defined>},
    {"divisibleby", divisible},
    {"eq", kEqual},
    {"equalto", kEqual},
    {"even", [](const Value& v, const Arguments&) { return parity(v, 0); }},
    {"false", asks<is_false>},
    {"float", asks<is_float>},
    {"ge", kAtLeast},
    {"greaterthan", kGreater},
    {"gt", kGreater},
    {"in", within},
    {"integer", asks<is_integer>},
    {"iterable", asks<is_iterable>},
    {"le", kAtMost},
    {"lessthan", kLess},
    {"lower", asks<is_lower>},
    {"lt", kLess},
    {"mapping", asks<is_mapping>},
    {"ne", kUnequal},
    {"none", asks<is_none>},
    {"number", asks<is_number>},
    {"odd", [](const Value& v, const Arguments&) { return parity(v, 1); }},
    {"sequence", asks<is_sequence>},
    {"string", asks<is_string>},
    {"true", asks<is_true>},
    {"undefined", asks<is_undefined>},
    {"upper", asks<is_upper>},
};

}  // namespace

Test find_test(std::string_view name) {
  const auto* found =
      std::find_if(std::begin(kTests), std::end(kTests), [&](const NamedTest& test) { return test.name == name; });
  return found == std::end(kTests) ? nullptr : found->test;
}

}  // namespace troupe::text::jinja
