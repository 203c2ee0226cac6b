#include "runtime/text/jinja/expression_parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "runtime/text/jinja/builtins.h"

namespace troupe::text::jinja {
namespace {

using Kind = Expression::Kind;

Error too_deep(std::uint32_t line) {
  return resource_exhausted(fmt::format("line {}: expressions are nested deeper than {}", line, kMaxSyntaxDepth));
}

}  // namespace

class ExpressionParser::Level {
 public:
  explicit Level(ExpressionParser& parser) : parser_(parser) { ++parser_.level_; }
  ~Level() { --parser_.level_; }
  Level(const Level&) = delete;
  Level& operator=(const Level&) = delete;

  bool fits() const { return parser_.level_ <= kMaxSyntaxDepth; }

 private:
  ExpressionParser& parser_;
};

bool ExpressionParser::take_name(std::string_view word) {
  if (!at_name(word)) return false;
  take();
  return true;
}

bool ExpressionParser::take_operator(std::string_view word) {
  if (!at_operator(word)) return false;
  take();
  return true;
}

Result<std::string> ExpressionParser::expect_name(std::string_view what) {
  if (!at(Token::Kind::kName)) return corrupt(fmt::format("{} is expected, not {}", what, next_words()));
  return take().text;
}

Result<void> ExpressionParser::expect_operator(std::string_view word) {
  if (!take_operator(word)) return corrupt(fmt::format("'{}' is expected, not {}", word, next_words()));
  return {};
}

Result<void> ExpressionParser::expect(Token::Kind kind, std::string_view what) {
  if (!at(kind)) return corrupt(fmt::format("{} is expected, not {}", what, next_words()));
  take();
  return {};
}

std::string ExpressionParser::next_words() const {
  const Token& token = peek();
  switch (token.kind) {
    case Token::Kind::kText: return "text";
    case Token::Kind::kOutputBegin: return "'{{'";
    case Token::Kind::kOutputEnd: return "'}}'";
    case Token::Kind::kBlockBegin: return "'{%'";
    case Token::Kind::kBlockEnd: return "'%}'";
    case Token::Kind::kString: return "a string";
    case Token::Kind::kEnd: return "the end of the template";
    default: return fmt::format("'{}'", std::string_view(token.text).substr(0, 64));
  }
}

Error ExpressionParser::corrupt(std::string_view what) const {
  return corrupt_data(fmt::format("line {}: {}", peek().line, what));
}

Error ExpressionParser::unsupported_here(std::string_view what) const {
  return unsupported(fmt::format("line {}: {}", peek().line, what));
}

Expression ExpressionParser::node(Kind kind) const {
  Expression made;
  made.kind = kind;
  made.line = peek().line;
  return made;
}

// The parent with one child more. Chains grow in depth without growing the parser's stack, so that it is looked at
// here.
Result<Expression> ExpressionParser::with(Expression parent, Expression child) const {
  parent.depth = std::max(parent.depth, child.depth + 1);
  if (parent.depth > kMaxSyntaxDepth) return too_deep(peek().line);
  parent.children.push_back(std::move(child));
  return parent;
}

Result<Expression> ExpressionParser::expression() {
  const Level level(*this);
  if (!level.fits()) return too_deep(peek().line);
  TROUPE_ASSIGN_OR_RETURN(Expression value, without_condition());
  while (at_name("if")) {
    Expression choice = node(Kind::kConditional);
    take();
    TROUPE_ASSIGN_OR_RETURN(Expression condition, without_condition());
    TROUPE_ASSIGN_OR_RETURN(choice, with(std::move(choice), std::move(condition)));
    TROUPE_ASSIGN_OR_RETURN(choice, with(std::move(choice), std::move(value)));
    if (take_name("else")) {
      TROUPE_ASSIGN_OR_RETURN(Expression other, expression());
      TROUPE_ASSIGN_OR_RETURN(choice, with(std::move(choice), std::move(other)));
    }
    value = std::move(choice);
  }
  return value;
}

Result<Expression> ExpressionParser::without_condition() { return disjunction(); }

Result<Expression> ExpressionParser::expression_or_tuple() {
  TROUPE_ASSIGN_OR_RETURN(Expression first, expression());
  if (!at_operator(",")) return first;
  TROUPE_ASSIGN_OR_RETURN(Expression tuple, with(node(Kind::kTuple), std::move(first)));
  while (take_operator(",")) {
    if (at(Token::Kind::kBlockEnd) || at(Token::Kind::kOutputEnd) || at_operator("=")) break;
    TROUPE_ASSIGN_OR_RETURN(Expression next, expression());
    TROUPE_ASSIGN_OR_RETURN(tuple, with(std::move(tuple), std::move(next)));
  }
  return tuple;
}

Result<Expression> ExpressionParser::disjunction() {
  TROUPE_ASSIGN_OR_RETURN(Expression left, conjunction());
  while (at_name("or")) {
    TROUPE_ASSIGN_OR_RETURN(Expression both, with(node(Kind::kOr), std::move(left)));
    take();
    TROUPE_ASSIGN_OR_RETURN(Expression right, conjunction());
    TROUPE_ASSIGN_OR_RETURN(left, with(std::move(both), std::move(right)));
  }
  return left;
}

Result<Expression> ExpressionParser::conjunction() {
  TROUPE_ASSIGN_OR_RETURN(Expression left, negation());
  while (at_name("and")) {
    TROUPE_ASSIGN_OR_RETURN(Expression both, with(node(Kind::kAnd), std::move(left)));
    take();
    TROUPE_ASSIGN_OR_RETURN(Expression right, negation());
    TROUPE_ASSIGN_OR_RETURN(left, with(std::move(both), std::move(right)));
  }
  return left;
}

Result<Expression> ExpressionParser::negation() {
  if (!at_name("not")) return comparison();
  const Level level(*this);
  if (!level.fits()) return too_deep(peek().line);
  Expression made = node(Kind::kNot);
  take();
  TROUPE_ASSIGN_OR_RETURN(Expression operand, negation());
  return with(std::move(made), std::move(operand));
}

Result<Expression> ExpressionParser::comparison() {
  static constexpr std::array<std::string_view, 6> kOperators = {"==", "!=", "<", "<=", ">", ">="};
  TROUPE_ASSIGN_OR_RETURN(Expression first, sum());
  Expression compared = node(Kind::kComparison);
  while (true) {
    std::string word;
    if (at(Token::Kind::kOperator) &&
        std::find(kOperators.begin(), kOperators.end(), peek().text) != kOperators.end()) {
      word = take().text;
    } else if (take_name("in")) {
      word = "in";
    } else if (at_name("not") && peek(1).is(Token::Kind::kName, "in")) {
      take();
      take();
      word = "not in";
    } else {
      break;
    }
    TROUPE_ASSIGN_OR_RETURN(Expression next, sum());
    if (compared.names.empty()) {
      TROUPE_ASSIGN_OR_RETURN(compared, with(std::move(compared), std::move(first)));
    }
    TROUPE_ASSIGN_OR_RETURN(compared, with(std::move(compared), std::move(next)));
    compared.names.push_back(std::move(word));
  }
  if (compared.names.empty()) return first;
  return compared;
}

Result<Expression> ExpressionParser::binary(Rule operand, const std::vector<std::string_view>& operators) {
  TROUPE_ASSIGN_OR_RETURN(Expression left, (this->*operand)());
  while (at(Token::Kind::kOperator) && std::find(operators.begin(), operators.end(), peek().text) != operators.end()) {
    Expression both = node(Kind::kOperation);
    both.name = take().text;
    TROUPE_ASSIGN_OR_RETURN(both, with(std::move(both), std::move(left)));
    TROUPE_ASSIGN_OR_RETURN(Expression right, (this->*operand)());
    TROUPE_ASSIGN_OR_RETURN(left, with(std::move(both), std::move(right)));
  }
  return left;
}

Result<Expression> ExpressionParser::sum() { return binary(&ExpressionParser::concatenation, {"+", "-"}); }
Result<Expression> ExpressionParser::concatenation() { return binary(&ExpressionParser::product, {"~"}); }
Result<Expression> ExpressionParser::product() { return binary(&ExpressionParser::power, {"*", "/", "//", "%"}); }

Result<Expression> ExpressionParser::power() { return binary(&ExpressionParser::filtered_unary, {"**"}); }

// Filters take what a sign has made.
Result<Expression> ExpressionParser::filtered_unary() {
  TROUPE_ASSIGN_OR_RETURN(Expression operand, unary());
  return filters_and_tests(std::move(operand));
}

Result<Expression> ExpressionParser::unary() {
  const Level level(*this);
  if (!level.fits()) return too_deep(peek().line);
  if (at_operator("-") || at_operator("+")) {
    const bool negative = at_operator("-");
    Expression made = node(Kind::kNegative);
    take();
    TROUPE_ASSIGN_OR_RETURN(Expression operand, unary());
    if (!negative) return operand;
    return with(std::move(made), std::move(operand));
  }
  TROUPE_ASSIGN_OR_RETURN(Expression base, primary());
  return postfix(std::move(base));
}

Result<Expression> ExpressionParser::primary() {
  if (take_operator("(")) return parenthesis();
  if (take_operator("[")) return list("]");
  if (take_operator("{")) return dict();
  return constant_or_name();
}

Result<Expression> ExpressionParser::constant_or_name() {
  Expression made = node(Kind::kConstant);
  const Token& next = peek();
  switch (next.kind) {
    case Token::Kind::kString: {
      std::string text;
      while (at(Token::Kind::kString)) text += take().text;  // strings beside each other are one
      made.value = Value(std::move(text));
      return made;
    }
    case Token::Kind::kInteger: {
      std::int64_t number = 0;
      const char* end = next.text.data() + next.text.size();
      const auto parsed = std::from_chars(next.text.data(), end, number);
      if (parsed.ec != std::errc() || parsed.ptr != end) return corrupt("a whole number is too large");
      made.value = Value(number);
      take();
      return made;
    }
    case Token::Kind::kFloat: {
      double number = 0;
      const char* end = next.text.data() + next.text.size();
      const auto parsed = std::from_chars(next.text.data(), end, number);
      if (parsed.ec != std::errc() || parsed.ptr != end) return corrupt("a number is out of range");
      made.value = Value(number);
      take();
      return made;
    }
    case Token::Kind::kName: {
      const std::string word = take().text;
      if (word == "true" || word == "True") {
        made.value = Value(true);
      } else if (word == "false" || word == "False") {
        made.value = Value(false);
      } else if (word == "none" || word == "None") {
        made.value = Value(None());
      } else {
        made.kind = Kind::kName;
        made.name = word;
      }
      return made;
    }
    default: return corrupt(fmt::format("an expression is expected, not {}", next_words()));
  }
}

// Items up to `closing`, behind the opening bracket.
Result<Expression> ExpressionParser::list(std::string_view closing) {
  Expression made = node(Kind::kList);
  while (!take_operator(closing)) {
    if (!made.children.empty()) {
      TROUPE_RETURN_IF_ERROR(expect_operator(","));
      if (take_operator(closing)) break;
    }
    TROUPE_ASSIGN_OR_RETURN(Expression item, expression());
    TROUPE_ASSIGN_OR_RETURN(made, with(std::move(made), std::move(item)));
  }
  return made;
}

Result<Expression> ExpressionParser::dict() {
  Expression made = node(Kind::kDict);
  while (!take_operator("}")) {
    if (!made.children.empty()) {
      TROUPE_RETURN_IF_ERROR(expect_operator(","));
      if (take_operator("}")) break;
    }
    TROUPE_ASSIGN_OR_RETURN(Expression key, expression());
    TROUPE_RETURN_IF_ERROR(expect_operator(":"));
    TROUPE_ASSIGN_OR_RETURN(Expression value, expression());
    TROUPE_ASSIGN_OR_RETURN(made, with(std::move(made), std::move(key)));
    TROUPE_ASSIGN_OR_RETURN(made, with(std::move(made), std::move(value)));
  }
  return made;
}

// Behind "(": an expression, or a tuple.
Result<Expression> ExpressionParser::parenthesis() {
  if (take_operator(")")) return node(Kind::kTuple);
  TROUPE_ASSIGN_OR_RETURN(Expression first, expression());
  if (take_operator(")")) return first;
  TROUPE_RETURN_IF_ERROR(expect_operator(","));
  TROUPE_ASSIGN_OR_RETURN(Expression rest, list(")"));
  Expression made = node(Kind::kTuple);
  TROUPE_ASSIGN_OR_RETURN(made, with(std::move(made), std::move(first)));
  for (Expression& item : rest.children) {
    TROUPE_ASSIGN_OR_RETURN(made, with(std::move(made), std::move(item)));
  }
  return made;
}

// Members, subscripts and calls.
Result<Expression> ExpressionParser::postfix(Expression base) {
  while (true) {
    if (take_operator(".")) {
      Expression made = node(Kind::kMember);
      if (at(Token::Kind::kInteger)) {
        made.kind = Kind::kSubscript;
        TROUPE_ASSIGN_OR_RETURN(made, with(std::move(made), std::move(base)));
        TROUPE_ASSIGN_OR_RETURN(Expression index, constant_or_name());
        TROUPE_ASSIGN_OR_RETURN(base, with(std::move(made), std::move(index)));
        continue;
      }
      TROUPE_ASSIGN_OR_RETURN(made.name, expect_name("the name of a member"));
      TROUPE_ASSIGN_OR_RETURN(base, with(std::move(made), std::move(base)));
    } else if (take_operator("[")) {
      TROUPE_ASSIGN_OR_RETURN(base, subscript(std::move(base)));
    } else if (at_operator("(")) {
      TROUPE_ASSIGN_OR_RETURN(Expression call, with(node(Kind::kCall), std::move(base)));
      TROUPE_ASSIGN_OR_RETURN(base, arguments(std::move(call)));
    } else {
      return base;
    }
  }
}

Result<Expression> ExpressionParser::filters_and_tests(Expression base) {
  while (true) {
    if (take_operator("|")) {
      TROUPE_ASSIGN_OR_RETURN(base, filter(std::move(base)));
    } else if (take_name("is")) {
      TROUPE_ASSIGN_OR_RETURN(base, test(std::move(base)));
    } else if (at_operator("(")) {
      TROUPE_ASSIGN_OR_RETURN(Expression call, with(node(Kind::kCall), std::move(base)));
      TROUPE_ASSIGN_OR_RETURN(base, arguments(std::move(call)));
    } else {
      return base;
    }
  }
}

// Behind "[".
Result<Expression> ExpressionParser::subscript(Expression base) {
  Expression none = node(Kind::kConstant);
  none.value = Value(None());
  std::array<Expression, 3> parts = {none, none, none};
  std::size_t colons = 0;
  for (std::size_t part = 0; part < parts.size(); ++part) {
    if (!at_operator(":") && !at_operator("]")) {
      TROUPE_ASSIGN_OR_RETURN(parts[part], expression());
    }
    if (!take_operator(":")) break;
    ++colons;
  }
  TROUPE_RETURN_IF_ERROR(expect_operator("]"));
  Expression made = node(colons == 0 ? Kind::kSubscript : Kind::kSlice);
  TROUPE_ASSIGN_OR_RETURN(made, with(std::move(made), std::move(base)));
  for (std::size_t part = 0; part < (colons == 0 ? 1 : parts.size()); ++part) {
    TROUPE_ASSIGN_OR_RETURN(made, with(std::move(made), std::move(parts[part])));
  }
  return made;
}

// The arguments in parentheses become children.
Result<Expression> ExpressionParser::arguments(Expression call) {
  TROUPE_RETURN_IF_ERROR(expect_operator("("));
  bool first = true;
  while (!take_operator(")")) {
    if (!first) {
      TROUPE_RETURN_IF_ERROR(expect_operator(","));
      if (take_operator(")")) break;
    }
    first = false;
    if (at_operator("*") || at_operator("**")) return unsupported_here("arguments by * are not known here");
    if (at(Token::Kind::kName) && peek(1).is(Token::Kind::kOperator, "=")) {
      call.names.push_back(take().text);
      take();
    } else if (!call.names.empty()) {
      return corrupt("an argument without a name follows one with a name");
    }
    TROUPE_ASSIGN_OR_RETURN(Expression value, expression());
    TROUPE_ASSIGN_OR_RETURN(call, with(std::move(call), std::move(value)));
  }
  return call;
}

// Behind "|".
Result<Expression> ExpressionParser::filter(Expression input) {
  Expression made = node(Kind::kFilter);
  TROUPE_ASSIGN_OR_RETURN(made.name, expect_name("the name of a filter"));
  if (find_filter(made.name) == nullptr) return unsupported_here(fmt::format("filter '{}' is not known", made.name));
  TROUPE_ASSIGN_OR_RETURN(made, with(std::move(made), std::move(input)));
  if (at_operator("(")) return arguments(std::move(made));
  return made;
}

Result<Expression> ExpressionParser::filters(Expression input, bool begins_with_bar) {
  bool another = !begins_with_bar || take_operator("|");
  while (another) {
    TROUPE_ASSIGN_OR_RETURN(input, filter(std::move(input)));
    another = take_operator("|");
  }
  return input;
}

// Behind "is".
Result<Expression> ExpressionParser::test(Expression subject) {
  const bool negated = take_name("not");
  Expression made = node(Kind::kTest);
  TROUPE_ASSIGN_OR_RETURN(made.name, expect_name("the name of a test"));
  if (find_test(made.name) == nullptr) return unsupported_here(fmt::format("test '{}' is not known", made.name));
  TROUPE_ASSIGN_OR_RETURN(made, with(std::move(made), std::move(subject)));
  const bool operand_comes = at(Token::Kind::kString) || at(Token::Kind::kInteger) || at(Token::Kind::kFloat) ||
                             at_operator("[") || at_operator("{") ||
                             (at(Token::Kind::kName) && !at_name("else") && !at_name("or") && !at_name("and") &&
                              !at_name("is") && !at_name("if") && !at_name("in") && !at_name("not"));
  if (at_operator("(")) {
    TROUPE_ASSIGN_OR_RETURN(made, arguments(std::move(made)));
  } else if (operand_comes) {
    TROUPE_ASSIGN_OR_RETURN(Expression base, primary());
    TROUPE_ASSIGN_OR_RETURN(Expression operand, postfix(std::move(base)));
    TROUPE_ASSIGN_OR_RETURN(made, with(std::move(made), std::move(operand)));
  }
  if (!negated) return made;
  return with(node(Kind::kNot), std::move(made));
}

}  // namespace troupe::text::jinja
