#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/text/jinja/lexer.h"
#include "runtime/text/jinja/syntax.h"

namespace troupe::text::jinja {

// Goes through the tokens of a template, and takes expressions out of them with the precedence of Jinja2: conditional,
// or, and, not, comparison, + and -, ~, * and its kin, unary -, **, then members, calls, filters and tests.
class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  const Token& peek(std::size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  bool at(Token::Kind kind) const { return peek().kind == kind; }
  bool at_name(std::string_view word) const { return peek().is(Token::Kind::kName, word); }
  bool at_operator(std::string_view word) const { return peek().is(Token::Kind::kOperator, word); }

  Token take() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool take_name(std::string_view word);
  bool take_operator(std::string_view word);
  Result<std::string> expect_name(std::string_view what);
  Result<void> expect_operator(std::string_view word);
  Result<void> expect(Token::Kind kind, std::string_view what);

  Result<Expression> expression();
  // Without a conditional: what a loop goes over.
  Result<Expression> without_condition();
  // a, b, c make a tuple.
  Result<Expression> expression_or_tuple();
  // name(...) | name(...): filters of `input`.
  Result<Expression> filters(Expression input, bool begins_with_bar);

  // "line N: what", of the token that comes.
  Error corrupt(std::string_view what) const;
  Error unsupported_here(std::string_view what) const;
  // What comes, for messages.
  std::string next_words() const;

 private:
  using Rule = Result<Expression> (ExpressionParser::*)();

  // Stands for being one level deeper.
  class Level;

  Expression node(Expression::Kind kind) const;
  Result<Expression> with(Expression parent, Expression child) const;
  Result<Expression> binary(Rule operand, const std::vector<std::string_view>& operators);
  Result<Expression> disjunction();
  Result<Expression> conjunction();
  Result<Expression> negation();
  Result<Expression> comparison();
  Result<Expression> sum();
  Result<Expression> concatenation();
  Result<Expression> product();
  Result<Expression> filtered_unary();
  Result<Expression> unary();
  Result<Expression> power();
  Result<Expression> primary();
  Result<Expression> constant_or_name();
  Result<Expression> list(std::string_view closing);
  Result<Expression> dict();
  Result<Expression> parenthesis();
  Result<Expression> postfix(Expression base);
  Result<Expression> filters_and_tests(Expression base);
  Result<Expression> subscript(Expression base);
  Result<Expression> arguments(Expression call);
  Result<Expression> filter(Expression input);
  Result<Expression> test(Expression subject);

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  std::uint32_t level_ = 0;
};

}  // namespace troupe::text::jinja
