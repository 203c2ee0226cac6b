#define PCRE2_CODE_UNIT_WIDTH 8
#include "runtime/text/regex_syntax.h"

#include <pcre2.h>

#include <algorithm>
#include <cctype>
#include <vector>

namespace troupe::text {
namespace {

constexpr std::string_view kWordMembers = "\\p{L}\\p{M}\\p{N}\\p{Pc}";
constexpr std::string_view kHexMembers = "0-9A-Fa-f";

// Whether PCRE2 knows a script of that name.
bool is_script(const std::string& name) {
  const std::string pattern = "\\p{sc:" + name + "}";
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF, &error, &offset, nullptr);
  pcre2_code_free(code);
  return code != nullptr;
}

class Rewriter {
 public:
  explicit Rewriter(std::string_view pattern) : in_(pattern) {}

  Result<std::string> run() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == '\\') {
        TROUPE_RETURN_IF_ERROR(escape(false));
      } else if (c == '[') {
        TROUPE_RETURN_IF_ERROR(character_class());
      } else if (c == '(') {
        open_group();
      } else if (c == ')') {
        if (!group_starts_.empty()) {
          atom_start_ = group_starts_.back();
          group_starts_.pop_back();
        }
        take(1);
      } else if (c == '{') {
        quantifier();
      } else if (c == '*' || c == '+' || c == '?') {
        take(1);
      } else {
        begin_atom();
        take(1);
        while (at_ < in_.size() && (in_[at_] & 0xC0) == 0x80) take(1);  // the rest of a UTF-8 character
      }
    }
    return std::move(out_);
  }

 private:
  void begin_atom() { atom_start_ = out_.size(); }

  void take(std::size_t bytes) {
    out_ += in_.substr(at_, bytes);
    at_ += bytes;
  }

  void replace(std::size_t bytes, std::string_view by) {
    out_ += by;
    at_ += bytes;
  }

  void open_group() {
    group_starts_.push_back(out_.size());
    take(1);
    if (at_ >= in_.size() || in_[at_] != '?') return;
    take(1);
    // Inline options: letters and '-', up to ':' or ')'. Any other construct ends at once.
    std::size_t end = at_;
    while (end < in_.size() && (std::isalpha(static_cast<unsigned char>(in_[end])) || in_[end] == '-')) ++end;
    if (end == in_.size() || (in_[end] != ':' && in_[end] != ')')) return;
    for (; at_ < end; ++at_) out_ += in_[at_] == 'm' ? 's' : in_[at_];
  }

  void quantifier() {
    std::size_t end = at_ + 1;
    while (end < in_.size() && (std::isdigit(static_cast<unsigned char>(in_[end])) || in_[end] == ',')) ++end;
    if (end == in_.size() || in_[end] != '}' || end == at_ + 1) {
      begin_atom();
      replace(1, "\\{");
      return;
    }
    // {,n} is {0,n}.
    std::string interval(in_.substr(at_, end + 1 - at_));
    if (interval[1] == ',') interval.insert(1, "0");
    replace(end + 1 - at_, interval);
    if (at_ < in_.size() && in_[at_] == '+') {
      out_.insert(atom_start_, "(?:");
      replace(1, ")+");
    }
  }

  // At a backslash.
  Result<void> escape(bool in_class) {
    if (at_ + 1 == in_.size()) return unsupported("the pattern ends in a backslash");
    if (!in_class) begin_atom();
    const char letter = in_[at_ + 1];
    const auto members = [&](std::string_view listed, bool negated) {
      replace(2, in_class ? std::string(listed) : (negated ? "[^" : "[") + std::string(listed) + "]");
    };
    switch (letter) {
      case 's': replace(2, "\\p{White_Space}"); return {};
      case 'S': replace(2, "\\P{White_Space}"); return {};
      case 'W':
      case 'H':
        if (in_class) return unsupported(std::string("\\") + letter + " inside a character class");
        members(letter == 'W' ? kWordMembers : kHexMembers, true);
        return {};
      case 'w': members(kWordMembers, false); return {};
      case 'h': members(kHexMembers, false); return {};
      case 'b':
      case 'B':
        if (in_class) break;
        replace(2, word_boundary(letter == 'B'));
        return {};
      case 'u': return code_unit_escape();
      case 'p':
      case 'P': return property();
      default: break;
    }
    take(1);
    take(1);
    while (at_ < in_.size() && (in_[at_] & 0xC0) == 0x80) take(1);
    return {};
  }

  static std::string word_boundary(bool negated) {
    const std::string word = "[" + std::string(kWordMembers) + "]";
    const std::string same = "(?<=" + word + ")(?=" + word + ")|(?<!" + word + ")(?!" + word + ")";
    const std::string other = "(?<=" + word + ")(?!" + word + ")|(?<!" + word + ")(?=" + word + ")";
    return "(?:" + (negated ? same : other) + ")";
  }

  Result<void> code_unit_escape() {
    std::size_t end = at_ + 2;
    while (end < in_.size() && end < at_ + 6 && std::isxdigit(static_cast<unsigned char>(in_[end]))) ++end;
    if (end != at_ + 6) return unsupported("\\u without four hexadecimal digits");
    replace(6, "\\x{" + std::string(in_.substr(at_ + 2, 4)) + "}");
    return {};
  }

  // \p{...}: the whole of it, so that its braces are not taken for a quantifier.
  Result<void> property() {
    if (at_ + 2 < in_.size() && in_[at_ + 2] != '{') {
      take(3);
      return {};
    }
    const auto end = in_.find('}', at_);
    if (end == std::string_view::npos) return unsupported("\\p{ without its closing brace");
    // PCRE2 takes the bare name of a script for all characters that are also used in it, such as 、 for Han.
    const std::string name(in_.substr(std::min(at_ + 3, end), end - std::min(at_ + 3, end)));
    if (name.size() > 2 && is_script(name)) {
      replace(end + 1 - at_, std::string(in_.substr(at_, 3)) + "sc:" + name + "}");
    } else {
      take(end + 1 - at_);
    }
    return {};
  }

  // At "[:" inside a class; `end` is where its ":]" is. PCRE2 takes letters alone for alphabetic.
  void posix_bracket(std::size_t end) {
    const std::string_view name = in_.substr(at_ + 2, end - at_ - 2);
    const std::size_t bytes = end + 2 - at_;
    if (name == "alpha") {
      replace(bytes, "\\p{Alphabetic}");
    } else if (name == "alnum") {
      replace(bytes, "\\p{Alphabetic}\\p{Nd}");
    } else if (name == "space") {
      replace(bytes, "\\p{White_Space}");
    } else if (name == "word") {
      replace(bytes, kWordMembers);
    } else {
      take(bytes);
    }
  }

  // At '['.
  Result<void> character_class() {
    begin_atom();
    take(1);
    if (at_ < in_.size() && in_[at_] == '^') take(1);
    bool first = true;
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c == ']' && !first) {
        take(1);
        return {};
      }
      first = false;
      if (c == '\\') {
        TROUPE_RETURN_IF_ERROR(escape(true));
      } else if (c == '[') {
        const auto end = in_.find(":]", at_);
        if (in_.substr(at_, 2) != "[:" || end == std::string_view::npos) {
          return unsupported("a character class inside a character class");
        }
        posix_bracket(end);
      } else if (in_.substr(at_, 2) == "&&") {
        return unsupported("an intersection of character classes (&&)");
      } else {
        take(1);
      }
    }
    return unsupported("a character class without its closing bracket");
  }

  std::string_view in_;
  std::string out_;
  std::size_t at_ = 0;
  std::size_t atom_start_ = 0;  // where the atom that a quantifier would repeat begins in out_
  std::vector<std::size_t> group_starts_;
};

}  // namespace

Result<std::string> to_pcre_syntax(std::string_view pattern) { return Rewriter(pattern).run(); }

}  // namespace troupe::text
