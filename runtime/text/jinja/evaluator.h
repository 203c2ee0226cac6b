#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/text/jinja/builtins.h"
#include "runtime/text/jinja/syntax.h"

namespace troupe::text::jinja {

// Prints a template with values for its names. For one rendering.
//
// Scopes are those of Jinja2: what a loop's body or a macro sets is gone behind it, what `if` sets stays. A macro sees
// its parameters and the template's outermost names.
class Evaluator {
 public:
  Evaluator(const std::vector<Statement>& statements, Dict globals, Budget& budget,
            std::chrono::system_clock::time_point now);

  // Errors: kInvalidArgument for what raise_exception says, and for values that the template cannot work with (with the
  // line), kUnsupported for methods that are not known, kResourceExhausted beyond the budget.
  Result<std::string> run();

 private:
  enum class Flow { kGoOn, kBreak, kContinue };

  using Body = std::vector<Statement>;

  Result<Flow> run(const Body& body);
  Result<Flow> run(const Statement& statement);
  Result<Flow> condition(const Statement& statement);
  Result<Flow> loop(const Statement& statement);
  Result<List> loop_items(const Statement& statement);
  Result<void> take_apart(const std::vector<std::string>& targets, const Value& value);
  Result<void> assignment(const Statement& statement);
  // What the body prints, through filters whose innermost input is missing.
  Result<Value> captured(const Body& body, const Expression* filters);

  Result<Value> evaluate(const Expression& expression);
  Result<Value> evaluate_here(const Expression& expression);
  Result<Value> comparison(const Expression& expression);
  Result<Value> collection(const Expression& expression);
  Result<Value> member(const Expression& expression);
  Result<Value> call(const Expression& expression);
  Result<Value> call_macro(const Statement& definition, const Arguments& arguments);
  Result<Value> filtered(const Expression& expression);
  Result<Value> tested(const Expression& expression);
  Result<Arguments> arguments_of(const Expression& expression);

  const Value* look_up(std::string_view name) const;
  Error at_line(Error error, std::uint32_t line);
  Result<void> print(const Value& value);

  const Body& statements_;
  Context context_;
  std::vector<Dict> scopes_;     // the innermost last; [0] holds the outermost names
  std::size_t macro_scope_ = 1;  // scopes from here on are seen, and [0]
  std::uint32_t calls_ = 0;      // of macros, within each other
  std::string out_;
  const Value* filter_input_ = nullptr;  // what stands for the missing input of captured()
  std::vector<std::unique_ptr<Macro>> macros_;
  bool placed_ = false;  // the error on its way names its line, or is meant for whoever sent the conversation
};

}  // namespace troupe::text::jinja
