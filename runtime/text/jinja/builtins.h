#pragma once

#include <chrono>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/text/jinja/budget.h"
#include "runtime/text/jinja/value.h"

namespace troupe::text::jinja {

struct Arguments {
  List positional;
  std::vector<std::pair<std::string, Value>> named;

  // The argument at that place or of that name; undefined when it is not given.
  Value at(std::size_t place, std::string_view name) const;
};

// What builtins know of the rendering.
struct Context {
  Budget& budget;
  std::chrono::system_clock::time_point now;
};

// Errors of all: kInvalidArgument for values they cannot work with.
using Filter = Result<Value> (*)(Context& context, const Value& input, const Arguments& arguments);
using Test = Result<bool> (*)(const Value& subject, const Arguments& arguments);

// Those of Jinja2 that chat templates use, or null.
Filter find_filter(std::string_view name);
Test find_test(std::string_view name);

// subject.name(...) of strings and dicts, as in Python. Errors: kUnsupported when there is no such method.
Result<Value> call_method(Context& context, const Value& subject, std::string_view name, const Arguments& arguments);
bool is_method(const Value& subject, std::string_view name);

// The functions that every template finds: range, namespace, dict, raise_exception, strftime_now.
bool is_function(std::string_view name);
Result<Value> call_function(Context& context, std::string_view name, const Arguments& arguments);

// White space at the ends of a text, or the characters given, left out.
enum class Side { kLeft, kRight, kBoth };
std::string_view stripped(std::string_view text, Side side, const std::string* characters);

// The characters of a text, each as a text.
std::vector<std::string_view> characters_of(std::string_view text);

}  // namespace troupe::text::jinja
