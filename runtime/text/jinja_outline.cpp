#include "runtime/text/jinja_outline.h"

#include <algorithm>
#include <cctype>

namespace troupe::text {
namespace {

using Kind = JinjaStep::Kind;

struct Word {
  bool is_string;
  std::string text;  // of a string: its value
};

bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }
bool is_name(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// A string in the statement's own spelling.
std::string in_quotes(const std::string& text) { return "'" + text + "'"; }

// The words of an expression or statement that starts at `offset` of the source.
Result<std::vector<Word>> words_of(std::string_view code, std::size_t offset) {
  std::vector<Word> words;
  for (std::size_t at = 0; at < code.size();) {
    const char c = code[at];
    if (is_space(c)) {
      ++at;
    } else if (c == '\'' || c == '"') {
      std::string value;
      std::size_t end = at + 1;
      for (; end < code.size() && code[end] != c; ++end) {
        if (code[end] == '\\' && end + 1 < code.size()) {
          const char escaped = code[++end];
          value += escaped == 'n' ? '\n' : escaped == 't' ? '\t' : escaped == 'r' ? '\r' : escaped;
        } else {
          value += code[end];
        }
      }
      if (end >= code.size()) return corrupt_data("a string does not end at byte " + std::to_string(offset + at));
      words.push_back({true, std::move(value)});
      at = end + 1;
    } else if (is_name(c)) {
      std::size_t end = at;
      while (end < code.size() && is_name(code[end])) ++end;
      words.push_back({false, std::string(code.substr(at, end - at))});
      at = end;
    } else {
      const bool pair = code.substr(at, 2) == "==" || code.substr(at, 2) == "!=";
      words.push_back({false, std::string(code.substr(at, pair ? 2 : 1))});
      at += pair ? 2 : 1;
    }
  }
  return words;
}

// m [ 'role' ] becomes m . role.
void unify_subscripts(std::vector<Word>& words) {
  std::vector<Word> out;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const bool subscript = i + 2 < words.size() && !words[i].is_string && words[i].text == "[" &&
                           words[i + 1].is_string && !words[i + 2].is_string && words[i + 2].text == "]" && i > 0 &&
                           std::all_of(words[i + 1].text.begin(), words[i + 1].text.end(), is_name);
    if (subscript) {
      out.push_back({false, "."});
      out.push_back({false, words[i + 1].text});
      i += 2;
    } else {
      out.push_back(words[i]);
    }
  }
  words = std::move(out);
}

std::string spell(const std::vector<Word>& words) {
  std::string out;
  for (const Word& word : words) {
    if (!out.empty()) out += ' ';
    out += word.is_string ? in_quotes(word.text) : word.text;
  }
  return out;
}

class Outliner {
 public:
  explicit Outliner(std::string_view source) : source_(source) {
    if (source_.ends_with('\n')) source_.remove_suffix(1);
  }

  Result<std::vector<JinjaStep>> run() {
    while (at_ < source_.size()) {
      const std::size_t open = next_tag(at_);
      literal(open);
      if (open == source_.size()) break;
      TROUPE_RETURN_IF_ERROR(tag(open));
    }
    return std::move(steps_);
  }

 private:
  std::size_t next_tag(std::size_t from) const {
    for (std::size_t at = source_.find('{', from); at != std::string_view::npos; at = source_.find('{', at + 1)) {
      const char next = at + 1 < source_.size() ? source_[at + 1] : '\0';
      if (next == '%' || next == '{' || next == '#') return at;
    }
    return source_.size();
  }

  // The text in front of the tag at `open`.
  void literal(std::size_t open) {
    std::string_view text = source_.substr(at_, open - at_);
    const bool at_line_start = at_ == 0 || after_newline_;
    if (trim_next_) {
      while (!text.empty() && is_space(text.front())) text.remove_prefix(1);
    }
    if (open < source_.size()) {
      const char sign = open + 2 < source_.size() ? source_[open + 2] : '\0';
      if (sign == '-') {
        while (!text.empty() && is_space(text.back())) text.remove_suffix(1);
      } else if (source_[open + 1] != '{' && sign != '+') {
        strip_indentation(text, at_line_start && !trim_next_);
      }
    }
    output(Kind::kLiteral, std::string(text));
  }

  // lstrip_blocks: white space between the beginning of a line and a block is not output.
  static void strip_indentation(std::string_view& text, bool at_line_start) {
    const auto last = text.find_last_not_of(" \t");
    if (last == std::string_view::npos ? at_line_start : text[last] == '\n') {
      text = text.substr(0, last == std::string_view::npos ? 0 : last + 1);
    }
  }

  Result<void> tag(std::size_t open) {
    const char kind = source_[open + 1];
    const std::string_view close = kind == '%' ? "%}" : kind == '{' ? "}}" : "#}";
    std::size_t end = open + 2;
    char quote = '\0';
    for (; end < source_.size(); ++end) {
      const char c = source_[end];
      if (quote != '\0') {
        if (c == '\\') ++end;
        if (c == quote) quote = '\0';
      } else if (kind != '#' && (c == '\'' || c == '"')) {
        quote = c;
      } else if (source_.substr(end, 2) == close) {
        break;
      }
    }
    if (end >= source_.size()) return corrupt_data("a tag does not end, at byte " + std::to_string(open));
    std::size_t begin = open + 2;
    std::size_t code_end = end;
    if (begin < code_end && (source_[begin] == '-' || source_[begin] == '+')) ++begin;
    trim_next_ = code_end > begin && source_[code_end - 1] == '-';
    if (trim_next_ || (code_end > begin && source_[code_end - 1] == '+')) --code_end;
    at_ = end + 2;
    // trim_blocks: the newline right behind a block is not output.
    after_newline_ = kind != '{' && at_ < source_.size() && source_[at_] == '\n' && source_[end - 1] != '+';
    if (after_newline_) ++at_;
    if (kind == '#') return {};
    TROUPE_ASSIGN_OR_RETURN(auto words, words_of(source_.substr(begin, code_end - begin), begin));
    unify_subscripts(words);
    if (kind == '%') {
      steps_.push_back({Kind::kStatement, spell(words)});
    } else {
      expression(words);
    }
    return {};
  }

  // Output put together by + or ~ outside of brackets is one step per part.
  void expression(const std::vector<Word>& words) {
    std::vector<Word> part;
    int depth = 0;
    const auto flush = [&] {
      if (part.size() == 1 && part[0].is_string) {
        output(Kind::kLiteral, part[0].text);
      } else {
        output(Kind::kExpression, spell(part));
      }
      part.clear();
    };
    for (const Word& word : words) {
      if (!word.is_string) {
        if (word.text == "(" || word.text == "[" || word.text == "{") ++depth;
        if (word.text == ")" || word.text == "]" || word.text == "}") --depth;
        if (depth == 0 && (word.text == "+" || word.text == "~")) {
          flush();
          continue;
        }
      }
      part.push_back(word);
    }
    flush();
  }

  void output(Kind kind, std::string text) {
    if (kind == Kind::kLiteral && text.empty()) return;
    if (kind == Kind::kLiteral && !steps_.empty() && steps_.back().kind == Kind::kLiteral) {
      steps_.back().text += text;
    } else {
      steps_.push_back({kind, std::move(text)});
    }
  }

  std::string_view source_;
  std::vector<JinjaStep> steps_;
  std::size_t at_ = 0;
  bool trim_next_ = false;      // the tag before ended in -
  bool after_newline_ = false;  // the newline behind the tag before was taken
};

}  // namespace

Result<std::vector<JinjaStep>> outline_jinja(std::string_view source) { return Outliner(source).run(); }

}  // namespace troupe::text
