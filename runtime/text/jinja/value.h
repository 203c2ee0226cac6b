#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "runtime/base/result.h"

namespace troupe::text::jinja {

struct Macro;
class Value;

using List = std::vector<Value>;
using Dict = std::vector<std::pair<std::string, Value>>;  // in the order of insertion, each key once

struct Undefined {};  // a name that nobody gave a value
struct None {};

// What a name of the template's world can be called as.
struct Callable {
  std::string_view builtin;      // "range", ..., or empty:
  const Macro* macro = nullptr;  // of the template that runs
};

// The one thing that a template can change: namespace(...).
struct Namespace {
  Dict members;
};

// Lists and dicts are nested no deeper than this, so that walking one cannot exhaust the stack.
inline constexpr std::uint32_t kMaxValueDepth = 64;

// A value of a template, with the meaning that Python gives it. Immutable but for namespaces, cheap to copy; not
// thread-safe where it is shared.
class Value {
 public:
  Value() = default;  // undefined
  Value(None) : data_(None()) {}
  Value(bool boolean) : data_(boolean) {}
  Value(std::int64_t integer) : data_(integer) {}
  Value(double number) : data_(number) {}
  Value(std::string text) : data_(std::make_shared<const std::string>(std::move(text))) {}
  Value(std::string_view text) : Value(std::string(text)) {}
  Value(const char* text) : Value(std::string(text)) {}
  Value(Callable callable) : data_(callable) {}
  Value(std::shared_ptr<Namespace> space) : data_(std::move(space)) {}

  // Errors: nested deeper than kMaxValueDepth; a namespace within, which could hold itself.
  static Result<Value> list(List items);
  static Result<Value> tuple(List items);  // a list that is printed in parentheses
  static Result<Value> dict(Dict members);

  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<None>(data_); }
  bool is_number() const { return boolean() != nullptr || integer() != nullptr || number() != nullptr; }

  // Null when it is something else.
  const bool* boolean() const { return std::get_if<bool>(&data_); }
  const std::int64_t* integer() const { return std::get_if<std::int64_t>(&data_); }
  const double* number() const { return std::get_if<double>(&data_); }
  const std::string* string() const;
  const List* list() const;  // also of a tuple
  bool is_tuple() const;
  const Dict* dict() const;  // also the members of a namespace
  Namespace* name_space() const;
  const Callable* callable() const { return std::get_if<Callable>(&data_); }

  // 1 of true, 0 of false; null-like (false in the second) when it is neither a boolean nor an integer.
  std::pair<std::int64_t, bool> whole() const;
  double as_double() const;  // REQUIRES: is_number()

  bool is_true() const;
  // What Python calls its type, for messages.
  std::string_view type_name() const;
  std::uint32_t depth() const;  // 0 of what is neither list nor dict
  std::size_t weight() const;   // bytes of text and items to go through, to compare or print all of it

 private:
  static Result<Value> sequence(List items, bool is_tuple);

  struct ListNode {
    List items;
    bool is_tuple;
    std::uint32_t depth;
    std::size_t weight;
  };
  struct DictNode {
    Dict members;
    std::uint32_t depth;
    std::size_t weight;
  };

  std::variant<Undefined, None, bool, std::int64_t, double, std::shared_ptr<const std::string>,
               std::shared_ptr<const ListNode>, std::shared_ptr<const DictNode>, std::shared_ptr<Namespace>, Callable>
      data_;
};

// The member of that name, or null.
const Value* find(const Dict& dict, std::string_view key);
// Adds it, or gives it another value.
void assign(Dict& dict, std::string_view key, Value value);

// As Python's ==, and < of two numbers, strings or lists. Errors of less(): there is no order between the two.
bool equal(const Value& left, const Value& right);
Result<bool> less(const Value& left, const Value& right);

// str(value): what is printed. repr(value): as it is printed within a list.
std::string to_text(const Value& value);
std::string to_repr(const Value& value);

// json.dumps(value, ensure_ascii=False, indent=indent); indent < 0 = on one line.
// Errors: kInvalidArgument for what JSON has no word for.
Result<std::string> to_json(const Value& value, int indent);

}  // namespace troupe::text::jinja
