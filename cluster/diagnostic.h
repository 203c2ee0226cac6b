#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe::cluster {

// Where in the topology file something stands. Both count from 1, columns in bytes; line 0 means that it is not in
// the file (a default, or a topology made up on the spot).
struct Place {
  std::uint32_t line = 0;
  std::uint32_t column = 0;

  bool known() const { return line > 0; }
};

// A value and where it was written, so that whoever finds it wrong later (the planner) can point into the file.
template <class T>
struct Placed {
  T value{};
  Place place;

  Placed() = default;
  Placed(T v, Place p = {}) : value(std::move(v)), place(p) {}
  const T& operator*() const { return value; }
  const T* operator->() const { return &value; }
};

// One finding about a topology. Errors forbid a start, warnings do not.
struct Diagnostic {
  enum class Severity { kError, kWarning };

  Severity severity = Severity::kError;
  Place place;
  std::string message;

  // "file:line:column: message", with "warning: " before the message of a warning; without a place, "file: message".
  std::string to_string(std::string_view file) const;
};

// What one reading or planning found. At most kMaxDiagnostics are kept: a file that is wrong throughout is not worth
// more lines, and a hostile one gets no more memory.
class Diagnostics {
 public:
  static constexpr std::size_t kMaxDiagnostics = 100;

  void error(Place place, std::string message);
  void warning(Place place, std::string message);

  bool has_errors() const { return errors_ > 0; }

  // In the order of the file; those without a place come last.
  std::vector<Diagnostic> take();

 private:
  void add(Diagnostic diagnostic);

  std::vector<Diagnostic> items_;
  std::size_t errors_ = 0;
};

bool has_errors(const std::vector<Diagnostic>& diagnostics);

// The candidate that was most likely meant by `word`: the smallest edit distance (insert, delete, replace, swap
// neighbours) of at most a third of the word's length; "" if there is none. Letter case does not count.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

// "a, b or c"
std::string any_of(const std::vector<std::string>& words);

// How an error names what was probably meant: "did you mean 'x'?", else "valid are a, b and c".
std::string suggestion(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace troupe::cluster
