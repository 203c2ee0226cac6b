#include "runtime/text/jinja/parser.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <optional>

#include "runtime/text/jinja/expression_parser.h"
#include "runtime/text/jinja/lexer.h"

namespace troupe::text::jinja {
namespace {

using Kind = Statement::Kind;
using Body = std::vector<Statement>;

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  Result<Body> run() {
    TROUPE_ASSIGN_OR_RETURN(Body body, statements({}));
    if (!tokens_.at(Token::Kind::kEnd)) {
      return tokens_.corrupt(fmt::format("{} ends nothing", tokens_.peek(1).text));
    }
    return body;
  }

 private:
  // Up to a block that begins with one of `ends`, which is left there, or the template's end.
  Result<Body> statements(std::initializer_list<std::string_view> ends) {
    if (++level_ > kMaxSyntaxDepth) {
      return resource_exhausted(
          fmt::format("line {}: statements are nested deeper than {}", tokens_.peek().line, kMaxSyntaxDepth));
    }
    Body body;
    while (!tokens_.at(Token::Kind::kEnd)) {
      if (tokens_.at(Token::Kind::kBlockBegin)) {
        const Token& word = tokens_.peek(1);
        const bool is_end =
            std::find(ends.begin(), ends.end(), word.text) != ends.end() || word.text.starts_with("end");
        if (word.kind == Token::Kind::kName && is_end) break;
      }
      TROUPE_ASSIGN_OR_RETURN(Statement made, statement());
      body.push_back(std::move(made));
    }
    --level_;
    return body;
  }

  Result<Statement> statement() {
    Statement made;
    made.line = tokens_.peek().line;
    if (tokens_.at(Token::Kind::kText)) {
      made.name = tokens_.take().text;
      return made;
    }
    if (tokens_.at(Token::Kind::kOutputBegin)) {
      tokens_.take();
      made.kind = Kind::kOutput;
      TROUPE_ASSIGN_OR_RETURN(Expression value, tokens_.expression_or_tuple());
      made.expressions.push_back(std::move(value));
      TROUPE_RETURN_IF_ERROR(tokens_.expect(Token::Kind::kOutputEnd, "'}}'"));
      return made;
    }
    TROUPE_RETURN_IF_ERROR(tokens_.expect(Token::Kind::kBlockBegin, "'{%'"));
    return block(std::move(made));
  }

  Result<Statement> block(Statement made) {
    TROUPE_ASSIGN_OR_RETURN(const std::string word, tokens_.expect_name("the name of a statement"));
    if (word == "if") return condition(std::move(made));
    if (word == "for") return loop(std::move(made));
    if (word == "set") return assignment(std::move(made));
    if (word == "macro") return macro(std::move(made));
    if (word == "filter") return filter_block(std::move(made));
    if (word == "generation") {
      made.kind = Kind::kBlock;
      TROUPE_RETURN_IF_ERROR(end_of_block());
      return body_until(std::move(made), "endgeneration");
    }
    if (word == "break" || word == "continue") {
      if (loops_ == 0) return tokens_.corrupt(fmt::format("'{}' stands outside of loops", word));
      made.kind = word == "break" ? Kind::kBreak : Kind::kContinue;
      TROUPE_RETURN_IF_ERROR(end_of_block());
      return made;
    }
    return tokens_.unsupported_here(fmt::format("statement '{}' is not known", word.substr(0, 64)));
  }

  Result<void> end_of_block() { return tokens_.expect(Token::Kind::kBlockEnd, "'%}'"); }

  // {% word
  Result<void> take_word(std::string_view word) {
    if (!tokens_.at(Token::Kind::kBlockBegin) || !tokens_.peek(1).is(Token::Kind::kName, word)) {
      const std::string found =
          tokens_.at(Token::Kind::kBlockBegin) ? "'" + tokens_.peek(1).text.substr(0, 64) + "'" : tokens_.next_words();
      return tokens_.corrupt(fmt::format("'{}' is expected, not {}", word, found));
    }
    tokens_.take();
    tokens_.take();
    return {};
  }

  // The rest of a statement whose only body ends with `end`.
  Result<Statement> body_until(Statement made, std::string_view end) {
    TROUPE_ASSIGN_OR_RETURN(Body body, statements({end}));
    made.bodies.push_back(std::move(body));
    TROUPE_RETURN_IF_ERROR(take_word(end));
    TROUPE_RETURN_IF_ERROR(end_of_block());
    return made;
  }

  Result<Statement> condition(Statement made) {
    made.kind = Kind::kIf;
    while (true) {
      TROUPE_ASSIGN_OR_RETURN(Expression asked, tokens_.expression_or_tuple());
      made.expressions.push_back(std::move(asked));
      TROUPE_RETURN_IF_ERROR(end_of_block());
      TROUPE_ASSIGN_OR_RETURN(Body body, statements({"elif", "else", "endif"}));
      made.bodies.push_back(std::move(body));
      if (!tokens_.peek(1).is(Token::Kind::kName, "elif")) break;
      TROUPE_RETURN_IF_ERROR(take_word("elif"));
    }
    return otherwise(std::move(made), "endif");
  }

  // {% else %} with its body, if it comes, and the end.
  Result<Statement> otherwise(Statement made, std::string_view end) {
    if (tokens_.at(Token::Kind::kBlockBegin) && tokens_.peek(1).is(Token::Kind::kName, "else")) {
      TROUPE_RETURN_IF_ERROR(take_word("else"));
      TROUPE_RETURN_IF_ERROR(end_of_block());
      return body_until(std::move(made), end);
    }
    TROUPE_RETURN_IF_ERROR(take_word(end));
    TROUPE_RETURN_IF_ERROR(end_of_block());
    return made;
  }

  Result<std::vector<std::string>> names() {
    std::vector<std::string> names;
    const bool bracket = tokens_.take_operator("(");
    do {
      TROUPE_ASSIGN_OR_RETURN(std::string name, tokens_.expect_name("a name"));
      names.push_back(std::move(name));
    } while (tokens_.take_operator(","));
    if (bracket) TROUPE_RETURN_IF_ERROR(tokens_.expect_operator(")"));
    return names;
  }

  Result<Statement> loop(Statement made) {
    made.kind = Kind::kFor;
    TROUPE_ASSIGN_OR_RETURN(made.targets, names());
    if (!tokens_.take_name("in")) return tokens_.corrupt(fmt::format("'in' is expected, not {}", tokens_.next_words()));
    TROUPE_ASSIGN_OR_RETURN(Expression items, tokens_.without_condition());
    made.expressions.push_back(std::move(items));
    if (tokens_.take_name("if")) {
      TROUPE_ASSIGN_OR_RETURN(Expression wanted, tokens_.expression());
      made.expressions.push_back(std::move(wanted));
    }
    if (tokens_.at_name("recursive")) return tokens_.unsupported_here("recursive loops are not known here");
    TROUPE_RETURN_IF_ERROR(end_of_block());
    ++loops_;
    TROUPE_ASSIGN_OR_RETURN(Body body, statements({"else", "endfor"}));
    --loops_;
    made.bodies.push_back(std::move(body));
    return otherwise(std::move(made), "endfor");
  }

  Result<Statement> assignment(Statement made) {
    made.kind = Kind::kSet;
    if (tokens_.at(Token::Kind::kName) && tokens_.peek(1).is(Token::Kind::kOperator, ".")) {
      made.name = tokens_.take().text;
      tokens_.take();
      TROUPE_ASSIGN_OR_RETURN(std::string member, tokens_.expect_name("the name of a member"));
      made.targets.push_back(std::move(member));
    } else {
      TROUPE_ASSIGN_OR_RETURN(made.targets, names());
    }
    if (tokens_.take_operator("=")) {
      TROUPE_ASSIGN_OR_RETURN(Expression value, tokens_.expression_or_tuple());
      made.expressions.push_back(std::move(value));
      TROUPE_RETURN_IF_ERROR(end_of_block());
      return made;
    }
    made.kind = Kind::kSetBlock;
    if (made.targets.size() != 1 || !made.name.empty()) return tokens_.corrupt("'=' is expected");
    if (tokens_.at_operator("|")) {
      TROUPE_ASSIGN_OR_RETURN(Expression filters, tokens_.filters(Expression(), true));
      made.expressions.push_back(std::move(filters));
    }
    TROUPE_RETURN_IF_ERROR(end_of_block());
    return body_until(std::move(made), "endset");
  }

  Result<Statement> filter_block(Statement made) {
    made.kind = Kind::kFilter;
    TROUPE_ASSIGN_OR_RETURN(Expression filters, tokens_.filters(Expression(), false));
    made.expressions.push_back(std::move(filters));
    TROUPE_RETURN_IF_ERROR(end_of_block());
    return body_until(std::move(made), "endfilter");
  }

  Result<Statement> macro(Statement made) {
    made.kind = Kind::kMacro;
    TROUPE_ASSIGN_OR_RETURN(made.name, tokens_.expect_name("the name of a macro"));
    TROUPE_RETURN_IF_ERROR(tokens_.expect_operator("("));
    while (!tokens_.take_operator(")")) {
      if (!made.targets.empty()) TROUPE_RETURN_IF_ERROR(tokens_.expect_operator(","));
      TROUPE_ASSIGN_OR_RETURN(std::string parameter, tokens_.expect_name("the name of a parameter"));
      made.targets.push_back(std::move(parameter));
      if (tokens_.take_operator("=")) {
        TROUPE_ASSIGN_OR_RETURN(Expression value, tokens_.expression());
        made.expressions.push_back(std::move(value));
      } else if (!made.expressions.empty()) {
        return tokens_.corrupt("a parameter without a default follows one with a default");
      }
    }
    TROUPE_RETURN_IF_ERROR(end_of_block());
    const std::uint32_t outer_loops = std::exchange(loops_, 0);
    TROUPE_ASSIGN_OR_RETURN(made, body_until(std::move(made), "endmacro"));
    loops_ = outer_loops;
    return made;
  }

  ExpressionParser tokens_;
  std::uint32_t level_ = 0;
  std::uint32_t loops_ = 0;
};

}  // namespace

Result<std::vector<Statement>> parse_statements(std::string_view source) {
  TROUPE_ASSIGN_OR_RETURN(std::vector<Token> tokens, tokens_of(source));
  return Parser(std::move(tokens)).run();
}

}  // namespace troupe::text::jinja
