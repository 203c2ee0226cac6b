#pragma once

#include <string_view>

#include "runtime/base/result.h"
#include "runtime/text/jinja/budget.h"
#include "runtime/text/jinja/value.h"

namespace troupe::text::jinja {

// left word right, of + - * / // % ** ~. Errors: kInvalidArgument for values that do not go together, results out of
// range.
Result<Value> operate(Budget& budget, std::string_view word, const Value& left, const Value& right);

// left word right, of == != < <= > >= in, not in.
Result<bool> compare(Budget& budget, std::string_view word, const Value& left, const Value& right);

Result<Value> negative(const Value& value);

// subject[key]: undefined where there is no such item. Errors: of an undefined subject.
Result<Value> item(Budget& budget, const Value& subject, const Value& key);

// subject[first:last:step] of a list or string; none where left out.
Result<Value> slice(Budget& budget, const Value& subject, const Value& first, const Value& last, const Value& step);

}  // namespace troupe::text::jinja
