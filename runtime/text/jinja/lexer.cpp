#include "runtime/text/jinja/lexer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "runtime/text/utf8.h"

namespace troupe::text::jinja {
namespace {

using Kind = Token::Kind;

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_name(char c) { return is_name_start(c) || is_digit(c); }

// Line ends as \n, and one at the end left out.
std::string normalized(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else if (i + 1 == source.size() || source[i + 1] != '\n') {
      out += '\n';
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(normalized(source)), rest_(source_) {}

  Result<std::vector<Token>> run() {
    while (at_ < rest_.size()) {
      const std::size_t open = next_tag(at_);
      text(open);
      if (open == rest_.size()) break;
      TROUPE_RETURN_IF_ERROR(tag(open));
    }
    push(Kind::kEnd, {});
    return std::move(tokens_);
  }

 private:
  // Where the next {{, {% or {# is, or the end.
  std::size_t next_tag(std::size_t from) const {
    for (std::size_t at = rest_.find('{', from); at != std::string_view::npos; at = rest_.find('{', at + 1)) {
      const char next = at + 1 < rest_.size() ? rest_[at + 1] : '\0';
      if (next == '%' || next == '{' || next == '#') return at;
    }
    return rest_.size();
  }

  char sign_at(std::size_t at) const { return at < rest_.size() ? rest_[at] : '\0'; }

  // What is left of the text before the tag at `open`.
  std::string_view trimmed(std::string_view text, std::size_t open) const {
    const char sign = sign_at(open + 2);
    if (sign == '-') {
      while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
    } else if (sign != '+' && rest_[open + 1] != '{') {
      const std::size_t line = text.rfind('\n') + 1;  // 0 where there is none
      const bool blank = std::all_of(text.begin() + static_cast<std::ptrdiff_t>(line), text.end(), is_space);
      if (blank && (line > 0 || line_starts_)) text = text.substr(0, line);
    }
    return text;
  }

  void text(std::size_t open) {
    std::string_view text = rest_.substr(at_, open - at_);
    line_ends(at_, open);
    if (open < rest_.size()) text = trimmed(text, open);
    if (!text.empty()) push(Kind::kText, std::string(text));
    line_ += pending_lines_;
    pending_lines_ = 0;
  }

  // Counts the lines of [from, to), which the tokens to come lie behind.
  void line_ends(std::size_t from, std::size_t to) {
    pending_lines_ += static_cast<std::uint32_t>(std::count(rest_.begin() + static_cast<std::ptrdiff_t>(from),
                                                            rest_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
  }

  Error corrupt(std::string_view what) const { return corrupt_data(fmt::format("line {}: {}", line_, what)); }

  Result<void> tag(std::size_t open) {
    const char kind = rest_[open + 1];
    at_ = open + 2;
    if (kind == '#') return comment();
    if (sign_at(at_) == '-' || sign_at(at_) == '+') ++at_;
    if (kind == '%' && raw_begins()) return raw();
    push(kind == '%' ? Kind::kBlockBegin : Kind::kOutputBegin, {});
    TROUPE_RETURN_IF_ERROR(code(kind == '%' ? '%' : '}'));
    push(kind == '%' ? Kind::kBlockEnd : Kind::kOutputEnd, {});
    return {};
  }

  Result<void> comment() {
    const std::size_t end = rest_.find("#}", at_);
    if (end == std::string_view::npos) return corrupt("a comment does not end");
    line_ends(at_, end);
    close(end, true);
    return {};
  }

  // Goes on behind the end of a tag, `end` being its first character or the sign before that.
  void close(std::size_t end, bool trims_line) {
    const char before = end > 0 ? rest_[end - 1] : '\0';
    std::size_t next = end + 2;
    if (before == '-') {
      while (next < rest_.size() && is_space(rest_[next])) ++next;
    } else if (trims_line && before != '+' && sign_at(next) == '\n') {
      ++next;
    }
    line_ends(end, next);
    line_starts_ = next > 0 && rest_[next - 1] == '\n';
    line_ += pending_lines_;
    pending_lines_ = 0;
    at_ = next;
  }

  // Whether "raw %}" comes; leaves at_ behind it.
  bool raw_begins() {
    std::size_t at = at_;
    while (at < rest_.size() && is_space(rest_[at])) ++at;
    if (rest_.substr(at, 3) != "raw") return false;
    at += 3;
    while (at < rest_.size() && is_space(rest_[at])) ++at;
    if (sign_at(at) == '-' || sign_at(at) == '+') ++at;
    if (rest_.substr(at, 2) != "%}") return false;
    close(at, true);
    return true;
  }

  Result<void> raw() {
    for (std::size_t open = rest_.find("{%", at_); open != std::string_view::npos; open = rest_.find("{%", open + 1)) {
      std::size_t at = open + 2;
      if (sign_at(at) == '-' || sign_at(at) == '+') ++at;
      while (at < rest_.size() && is_space(rest_[at])) ++at;
      if (rest_.substr(at, 6) != "endraw") continue;
      at += 6;
      while (at < rest_.size() && is_space(rest_[at])) ++at;
      if (sign_at(at) == '-' || sign_at(at) == '+') ++at;
      if (rest_.substr(at, 2) != "%}") continue;
      text(open);
      close(at, true);
      return {};
    }
    return corrupt("{% raw %} does not end");
  }

  // The tokens up to the tag's end, which is left behind.
  Result<void> code(char closing) {
    const std::string_view end = closing == '%' ? "%}" : "}}";
    std::vector<char> open_brackets;
    while (at_ < rest_.size()) {
      const char c = rest_[at_];
      if (open_brackets.empty()) {
        const bool signed_end = (c == '-' || (c == '+' && closing == '%')) && rest_.substr(at_ + 1, 2) == end;
        if (signed_end || rest_.substr(at_, 2) == end) {
          close(at_ + (signed_end ? 1 : 0), closing == '%');
          return {};
        }
      }
      if (is_space(c)) {
        if (c == '\n') ++line_;
        ++at_;
      } else if (c == '\'' || c == '"') {
        TROUPE_RETURN_IF_ERROR(string());
      } else if (is_digit(c)) {
        number();
      } else if (is_name_start(c)) {
        const std::size_t begin = at_;
        while (at_ < rest_.size() && is_name(rest_[at_])) ++at_;
        push(Kind::kName, std::string(rest_.substr(begin, at_ - begin)));
      } else {
        TROUPE_RETURN_IF_ERROR(operation(open_brackets));
      }
    }
    return corrupt("a tag does not end");
  }

  Result<void> operation(std::vector<char>& open_brackets) {
    static constexpr std::array<std::string_view, 6> kPairs = {"==", "!=", "<=", ">=", "//", "**"};
    const std::string_view pair = rest_.substr(at_, 2);
    const char c = rest_[at_];
    if (std::find(kPairs.begin(), kPairs.end(), pair) != kPairs.end()) {
      push(Kind::kOperator, std::string(pair));
      at_ += 2;
      return {};
    }
    if (std::string_view("()[]{}.,:|=~+-*/%<>").find(c) == std::string_view::npos) {
      return corrupt(fmt::format("a character that belongs to nothing: byte 0x{:02x}", static_cast<unsigned char>(c)));
    }
    if (c == '(' || c == '[' || c == '{') open_brackets.push_back(c == '(' ? ')' : c == '[' ? ']' : '}');
    if (c == ')' || c == ']' || c == '}') {
      if (open_brackets.empty() || open_brackets.back() != c) return corrupt(fmt::format("'{}' closes nothing", c));
      open_brackets.pop_back();
    }
    push(Kind::kOperator, std::string(1, c));
    ++at_;
    return {};
  }

  void number() {
    const std::size_t begin = at_;
    const auto digits = [&] {
      while (at_ < rest_.size() && (is_digit(rest_[at_]) || rest_[at_] == '_')) ++at_;
    };
    digits();
    bool whole = true;
    if (sign_at(at_) == '.' && is_digit(sign_at(at_ + 1))) {
      whole = false;
      ++at_;
      digits();
    }
    if (sign_at(at_) == 'e' || sign_at(at_) == 'E') {
      const std::size_t sign = sign_at(at_ + 1) == '+' || sign_at(at_ + 1) == '-' ? 1 : 0;
      if (is_digit(sign_at(at_ + 1 + sign))) {
        whole = false;
        at_ += 1 + sign;
        digits();
      }
    }
    std::string text(rest_.substr(begin, at_ - begin));
    std::erase(text, '_');
    push(whole ? Kind::kInteger : Kind::kFloat, std::move(text));
  }

  Result<void> string() {
    const char quote = rest_[at_++];
    const std::uint32_t line = line_;
    std::string value;
    while (at_ < rest_.size() && rest_[at_] != quote) {
      const char c = rest_[at_++];
      if (c == '\n') ++line_;
      if (c != '\\' || at_ >= rest_.size()) {
        value += c;
      } else {
        TROUPE_RETURN_IF_ERROR(escape(value));
      }
    }
    if (at_ >= rest_.size()) {
      line_ = line;
      return corrupt("a string does not end");
    }
    ++at_;
    tokens_.push_back({Kind::kString, std::move(value), line});
    return {};
  }

  // Python's escapes. One that it does not know stays as it is.
  Result<void> escape(std::string& value) {
    const char c = rest_[at_++];
    switch (c) {
      case 'n': value += '\n'; return {};
      case 't': value += '\t'; return {};
      case 'r': value += '\r'; return {};
      case 'b': value += '\b'; return {};
      case 'f': value += '\f'; return {};
      case 'v': value += '\v'; return {};
      case '0': value += '\0'; return {};
      case '\n': return {};
      case '\\':
      case '\'':
      case '"': value += c; return {};
      case 'x': return code_point(value, 2);
      case 'u': return code_point(value, 4);
      case 'U': return code_point(value, 8);
      default:
        value += '\\';
        value += c;
        return {};
    }
  }

  Result<void> code_point(std::string& value, std::size_t digits) {
    const std::string_view text = rest_.substr(at_, digits);
    char32_t code = 0;
    for (const char c : text) {
      const char lower = static_cast<char>(c | 0x20);
      const int digit = is_digit(c) ? c - '0' : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
      if (digit < 0) return corrupt("an escape in a string lacks hexadecimal digits");
      code = code * 16 + static_cast<char32_t>(digit);
    }
    if (text.size() < digits || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) {
      return corrupt("an escape in a string is no character");
    }
    append_utf8(value, code);
    at_ += digits;
    return {};
  }

  void push(Kind kind, std::string text) { tokens_.push_back({kind, std::move(text), line_}); }

  const std::string source_;
  const std::string_view rest_;
  std::size_t at_ = 0;
  std::uint32_t line_ = 1;
  std::uint32_t pending_lines_ = 0;  // that the token at hand contains
  bool line_starts_ = true;          // the tag before ended with a line's end
  std::vector<Token> tokens_;
};

}  // namespace

Result<std::vector<Token>> tokens_of(std::string_view source) { return Lexer(source).run(); }

}  // namespace troupe::text::jinja
