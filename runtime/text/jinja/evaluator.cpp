#include "runtime/text/jinja/evaluator.h"

#include <fmt/format.h>

#include <algorithm>

#include "runtime/text/jinja/operators.h"

namespace troupe::text::jinja {
namespace {

constexpr std::uint32_t kMaxCalls = 32;  // of macros within each other

}  // namespace

Evaluator::Evaluator(const std::vector<Statement>& statements, Dict globals, Budget& budget,
                     std::chrono::system_clock::time_point now)
    : statements_(statements), context_{budget, now} {
  scopes_.push_back(std::move(globals));
}

Result<std::string> Evaluator::run() {
  TROUPE_RETURN_IF_ERROR(run(statements_));
  return std::move(out_);
}

Result<Evaluator::Flow> Evaluator::run(const Body& body) {
  for (const Statement& statement : body) {
    TROUPE_RETURN_IF_ERROR(context_.budget.step());
    TROUPE_ASSIGN_OR_RETURN(const Flow flow, run(statement));
    if (flow != Flow::kGoOn) return flow;
  }
  return Flow::kGoOn;
}

Result<Evaluator::Flow> Evaluator::run(const Statement& statement) {
  switch (statement.kind) {
    case Statement::Kind::kText: TROUPE_RETURN_IF_ERROR(print(Value(statement.name))); break;
    case Statement::Kind::kOutput: {
      TROUPE_ASSIGN_OR_RETURN(const Value value, evaluate(statement.expressions[0]));
      TROUPE_RETURN_IF_ERROR(print(value));
      break;
    }
    case Statement::Kind::kIf: return condition(statement);
    case Statement::Kind::kFor: return loop(statement);
    case Statement::Kind::kSet: TROUPE_RETURN_IF_ERROR(assignment(statement)); break;
    case Statement::Kind::kSetBlock: {
      const Expression* filters = statement.expressions.empty() ? nullptr : &statement.expressions[0];
      TROUPE_ASSIGN_OR_RETURN(Value text, captured(statement.bodies[0], filters));
      assign(scopes_.back(), statement.targets[0], std::move(text));
      break;
    }
    case Statement::Kind::kFilter: {
      TROUPE_ASSIGN_OR_RETURN(const Value text, captured(statement.bodies[0], &statement.expressions[0]));
      TROUPE_RETURN_IF_ERROR(print(text));
      break;
    }
    case Statement::Kind::kMacro:
      macros_.push_back(std::make_unique<Macro>(Macro{&statement}));
      assign(scopes_.back(), statement.name, Value(Callable{{}, macros_.back().get()}));
      break;
    case Statement::Kind::kBlock: return run(statement.bodies[0]);
    case Statement::Kind::kBreak: return Flow::kBreak;
    case Statement::Kind::kContinue: return Flow::kContinue;
  }
  return Flow::kGoOn;
}

Result<void> Evaluator::print(const Value& value) {
  TROUPE_RETURN_IF_ERROR(context_.budget.fill(value.weight()));
  out_ += to_text(value);
  return {};
}

Result<Evaluator::Flow> Evaluator::condition(const Statement& statement) {
  for (std::size_t i = 0; i < statement.expressions.size(); ++i) {
    TROUPE_ASSIGN_OR_RETURN(const Value asked, evaluate(statement.expressions[i]));
    if (asked.is_true()) return run(statement.bodies[i]);
  }
  if (statement.bodies.size() > statement.expressions.size()) return run(statement.bodies.back());
  return Flow::kGoOn;
}

// The items that a loop goes over, those left out that its condition does not want.
Result<List> Evaluator::loop_items(const Statement& statement) {
  TROUPE_ASSIGN_OR_RETURN(const Value over, evaluate(statement.expressions[0]));
  TROUPE_ASSIGN_OR_RETURN(const Value all, find_filter("list")(context_, over, {}));
  if (statement.expressions.size() == 1) return *all.list();
  List wanted;
  for (const Value& item : *all.list()) {
    scopes_.emplace_back();
    TROUPE_RETURN_IF_ERROR(take_apart(statement.targets, item));
    TROUPE_ASSIGN_OR_RETURN(const Value asked, evaluate(statement.expressions[1]));
    scopes_.pop_back();
    if (asked.is_true()) wanted.push_back(item);
  }
  return wanted;
}

Result<void> Evaluator::take_apart(const std::vector<std::string>& targets, const Value& value) {
  if (targets.size() == 1) {
    assign(scopes_.back(), targets[0], value);
    return {};
  }
  const List* parts = value.list();
  if (parts == nullptr || parts->size() != targets.size()) {
    return invalid_argument(fmt::format("{} names are to take apart something {}", targets.size(), value.type_name()));
  }
  for (std::size_t i = 0; i < targets.size(); ++i) assign(scopes_.back(), targets[i], (*parts)[i]);
  return {};
}

Result<Evaluator::Flow> Evaluator::loop(const Statement& statement) {
  auto items = loop_items(statement);
  if (!items.ok()) return std::move(items).error();
  const auto count = static_cast<std::int64_t>(items->size());
  for (std::int64_t i = 0; i < count; ++i) {
    const auto neighbour = [&](std::int64_t at) { return at >= 0 && at < count ? (*items)[at] : Value(); };
    TROUPE_ASSIGN_OR_RETURN(Value state, Value::dict({{"index", Value(i + 1)},
                                                      {"index0", Value(i)},
                                                      {"revindex", Value(count - i)},
                                                      {"revindex0", Value(count - i - 1)},
                                                      {"first", Value(i == 0)},
                                                      {"last", Value(i + 1 == count)},
                                                      {"length", Value(count)},
                                                      {"previtem", neighbour(i - 1)},
                                                      {"nextitem", neighbour(i + 1)}}));
    scopes_.emplace_back();
    assign(scopes_.back(), "loop", std::move(state));
    if (auto taken = take_apart(statement.targets, (*items)[i]); !taken.ok()) {
      return at_line(std::move(taken).error(), statement.line);
    }
    TROUPE_ASSIGN_OR_RETURN(const Flow flow, run(statement.bodies[0]));
    scopes_.pop_back();
    if (flow == Flow::kBreak) break;
  }
  if (count == 0 && statement.bodies.size() > 1) return run(statement.bodies[1]);
  return Flow::kGoOn;
}

Result<void> Evaluator::assignment(const Statement& statement) {
  TROUPE_ASSIGN_OR_RETURN(Value value, evaluate(statement.expressions[0]));
  if (statement.name.empty()) {
    auto taken = take_apart(statement.targets, value);
    if (!taken.ok()) return at_line(std::move(taken).error(), statement.line);
    return {};
  }
  const Value* owner = look_up(statement.name);
  Namespace* space = owner == nullptr ? nullptr : owner->name_space();
  if (space == nullptr || value.name_space() != nullptr) {
    return at_line(
        invalid_argument(fmt::format("'{}' is no namespace, or it is given one as a member", statement.name)),
        statement.line);
  }
  assign(space->members, statement.targets[0], std::move(value));
  return {};
}

Result<Value> Evaluator::captured(const Body& body, const Expression* filters) {
  std::string outer = std::exchange(out_, {});
  TROUPE_RETURN_IF_ERROR(run(body));
  const Value text(std::exchange(out_, std::move(outer)));
  if (filters == nullptr) return text;
  const Value* const outer_input = std::exchange(filter_input_, &text);
  auto result = evaluate(*filters);
  filter_input_ = outer_input;
  return result;
}

Error Evaluator::at_line(Error error, std::uint32_t line) {
  if (std::exchange(placed_, true)) return error;
  return std::move(error).within(fmt::format("line {}", line));
}

const Value* Evaluator::look_up(std::string_view name) const {
  for (std::size_t scope = scopes_.size(); scope > macro_scope_; --scope) {
    if (const Value* found = find(scopes_[scope - 1], name)) return found;
  }
  return find(scopes_[0], name);
}

Result<Value> Evaluator::evaluate(const Expression& expression) {
  TROUPE_RETURN_IF_ERROR(context_.budget.step());
  auto value = evaluate_here(expression);
  if (value.ok()) return value;
  return at_line(std::move(value).error(), expression.line);
}

Result<Value> Evaluator::evaluate_here(const Expression& expression) {
  using Kind = Expression::Kind;
  const auto child = [&](std::size_t index) { return evaluate(expression.children[index]); };
  switch (expression.kind) {
    case Kind::kConstant:
      // The innermost input of {% filter %} and {% set %} with filters is an expression of nothing.
      return expression.line == 0 && filter_input_ != nullptr ? *filter_input_ : expression.value;
    case Kind::kName: {
      if (const Value* found = look_up(expression.name)) return *found;
      return is_function(expression.name) ? Value(Callable{expression.name, nullptr}) : Value();
    }
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kDict: return collection(expression);
    case Kind::kMember: return member(expression);
    case Kind::kSubscript: {
      TROUPE_ASSIGN_OR_RETURN(const Value subject, child(0));
      TROUPE_ASSIGN_OR_RETURN(const Value key, child(1));
      return item(context_.budget, subject, key);
    }
    case Kind::kSlice: {
      TROUPE_ASSIGN_OR_RETURN(const Value subject, child(0));
      TROUPE_ASSIGN_OR_RETURN(const Value first, child(1));
      TROUPE_ASSIGN_OR_RETURN(const Value last, child(2));
      TROUPE_ASSIGN_OR_RETURN(const Value step, child(3));
      return slice(context_.budget, subject, first, last, step);
    }
    case Kind::kCall: return call(expression);
    case Kind::kFilter: return filtered(expression);
    case Kind::kTest: return tested(expression);
    case Kind::kNot: {
      TROUPE_ASSIGN_OR_RETURN(const Value value, child(0));
      return Value(!value.is_true());
    }
    case Kind::kNegative: {
      TROUPE_ASSIGN_OR_RETURN(const Value value, child(0));
      return negative(value);
    }
    case Kind::kAnd:
    case Kind::kOr: {
      TROUPE_ASSIGN_OR_RETURN(Value left, child(0));
      if (left.is_true() == (expression.kind == Kind::kOr)) return left;
      return child(1);
    }
    case Kind::kConditional: {
      TROUPE_ASSIGN_OR_RETURN(const Value asked, child(0));
      if (asked.is_true()) return child(1);
      return expression.children.size() > 2 ? child(2) : Value();
    }
    case Kind::kOperation: {
      TROUPE_ASSIGN_OR_RETURN(const Value left, child(0));
      TROUPE_ASSIGN_OR_RETURN(const Value right, child(1));
      return operate(context_.budget, expression.name, left, right);
    }
    case Kind::kComparison: return comparison(expression);
  }
  return Value();
}

// a < b < c holds when both do.
Result<Value> Evaluator::comparison(const Expression& expression) {
  TROUPE_ASSIGN_OR_RETURN(Value left, evaluate(expression.children[0]));
  for (std::size_t i = 0; i < expression.names.size(); ++i) {
    TROUPE_ASSIGN_OR_RETURN(Value right, evaluate(expression.children[i + 1]));
    TROUPE_ASSIGN_OR_RETURN(const bool holds, compare(context_.budget, expression.names[i], left, right));
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Result<Value> Evaluator::collection(const Expression& expression) {
  List items;
  for (const Expression& child : expression.children) {
    TROUPE_ASSIGN_OR_RETURN(Value item, evaluate(child));
    items.push_back(std::move(item));
  }
  TROUPE_RETURN_IF_ERROR(context_.budget.fill(16 * items.size()));
  if (expression.kind == Expression::Kind::kList) return Value::list(std::move(items));
  if (expression.kind == Expression::Kind::kTuple) return Value::tuple(std::move(items));
  Dict members;
  for (std::size_t i = 0; i + 1 < items.size(); i += 2) {
    if (items[i].string() == nullptr) return invalid_argument("the keys of a dict are strings here");
    assign(members, *items[i].string(), items[i + 1]);
  }
  return Value::dict(std::move(members));
}

Result<Value> Evaluator::member(const Expression& expression) {
  TROUPE_ASSIGN_OR_RETURN(const Value subject, evaluate(expression.children[0]));
  if (subject.is_undefined()) {
    return invalid_argument(fmt::format("something undefined has no member '{}'", expression.name.substr(0, 64)));
  }
  const Value* found = subject.dict() == nullptr ? nullptr : find(*subject.dict(), expression.name);
  return found == nullptr ? Value() : *found;
}

Result<Arguments> Evaluator::arguments_of(const Expression& expression) {
  Arguments arguments;
  const std::size_t first_named = expression.children.size() - expression.names.size();
  for (std::size_t i = 1; i < expression.children.size(); ++i) {
    TROUPE_ASSIGN_OR_RETURN(Value value, evaluate(expression.children[i]));
    if (i < first_named) {
      arguments.positional.push_back(std::move(value));
    } else {
      arguments.named.emplace_back(expression.names[i - first_named], std::move(value));
    }
  }
  return arguments;
}

Result<Value> Evaluator::call(const Expression& expression) {
  const Expression& callee = expression.children[0];
  if (callee.kind == Expression::Kind::kMember) {
    TROUPE_ASSIGN_OR_RETURN(const Value subject, evaluate(callee.children[0]));
    const Value* own = subject.dict() == nullptr ? nullptr : find(*subject.dict(), callee.name);
    const bool own_function = own != nullptr && own->callable() != nullptr && !is_method(subject, callee.name);
    if (!own_function) {
      TROUPE_ASSIGN_OR_RETURN(const Arguments arguments, arguments_of(expression));
      return call_method(context_, subject, callee.name, arguments);
    }
  }
  TROUPE_ASSIGN_OR_RETURN(const Value function, evaluate(callee));
  const Callable* callable = function.callable();
  if (callable == nullptr) {
    const std::string name = callee.name.empty() ? "this" : "'" + callee.name.substr(0, 64) + "'";
    return unsupported(fmt::format("{} is {}, no function that is known here", name, function.type_name()));
  }
  TROUPE_ASSIGN_OR_RETURN(const Arguments arguments, arguments_of(expression));
  if (callable->macro != nullptr) return call_macro(*callable->macro->definition, arguments);
  if (callable->builtin == "raise_exception") placed_ = true;
  return call_function(context_, callable->builtin, arguments);
}

Result<Value> Evaluator::call_macro(const Statement& definition, const Arguments& arguments) {
  if (calls_ == kMaxCalls) return resource_exhausted(fmt::format("macros call each other deeper than {}", kMaxCalls));
  if (arguments.positional.size() > definition.targets.size()) {
    return invalid_argument(fmt::format("macro '{}' takes {} arguments", definition.name, definition.targets.size()));
  }
  Dict parameters;
  const std::size_t without_default = definition.targets.size() - definition.expressions.size();
  for (std::size_t i = 0; i < definition.targets.size(); ++i) {
    Value value = arguments.at(i, definition.targets[i]);
    if (value.is_undefined() && i >= without_default) {
      TROUPE_ASSIGN_OR_RETURN(value, evaluate(definition.expressions[i - without_default]));
    }
    assign(parameters, definition.targets[i], std::move(value));
  }
  ++calls_;
  const std::size_t outer_scope = std::exchange(macro_scope_, scopes_.size());
  scopes_.push_back(std::move(parameters));
  auto text = captured(definition.bodies[0], nullptr);
  scopes_.pop_back();
  macro_scope_ = outer_scope;
  --calls_;
  return text;
}

Result<Value> Evaluator::filtered(const Expression& expression) {
  TROUPE_ASSIGN_OR_RETURN(const Value input, evaluate(expression.children[0]));
  TROUPE_ASSIGN_OR_RETURN(const Arguments arguments, arguments_of(expression));
  return find_filter(expression.name)(context_, input, arguments);
}

Result<Value> Evaluator::tested(const Expression& expression) {
  TROUPE_ASSIGN_OR_RETURN(const Value subject, evaluate(expression.children[0]));
  TROUPE_ASSIGN_OR_RETURN(const Arguments arguments, arguments_of(expression));
  if (!arguments.positional.empty()) {
    TROUPE_RETURN_IF_ERROR(context_.budget.fill(subject.weight() + arguments.positional[0].weight()));
  }
  TROUPE_ASSIGN_OR_RETURN(const bool holds, find_test(expression.name)(subject, arguments));
  return Value(holds);
}

}  // namespace troupe::text::jinja
