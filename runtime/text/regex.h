#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"

namespace troupe::text {

// Bytes [begin, end) of a text.
struct Span {
  std::size_t begin = 0;
  std::size_t end = 0;

  std::size_t size() const { return end - begin; }
};

// A compiled regular expression over UTF-8, on PCRE2. Immutable, thread-safe.
class Regex {
 public:
  // `pattern` in the syntax of tokenizer.json, see regex_syntax.h.
  static Result<Regex> compile(std::string_view pattern);

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // All matches from left to right, none overlapping; an empty match right after another match does not count.
  // kResourceExhausted when the pattern backtracks without end on this text. REQUIRES: `text` is UTF-8.
  Result<std::vector<Span>> find_all(std::string_view text) const;

 private:
  struct Code;

  explicit Regex(std::unique_ptr<const Code> code);
  static Result<Regex> compile_pcre(std::string_view pcre, std::string_view shown);

  std::unique_ptr<const Code> code_;
};

}  // namespace troupe::text
