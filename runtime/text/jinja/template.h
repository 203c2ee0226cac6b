#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/text/jinja/syntax.h"

namespace troupe::text::jinja {

// A Jinja template, as far as chat templates go: what Jinja2 3.1 prints in its immutable sandbox, with trim_blocks,
// lstrip_blocks, loop controls and the additions of Hugging Face's transformers (raise_exception, strftime_now,
// {% generation %}, tojson as json.dumps).
//
// It is interpreted, can reach nothing but the values that it is given, and spends no more than its limits: a template
// comes with a model's files and is as trustworthy as they are. Immutable, thread-safe.
class Template {
 public:
  static constexpr std::size_t kMaxSourceBytes = 1 << 20;
  static constexpr std::uint64_t kMaxSteps = 8'000'000;  // evaluations of one rendering
  static constexpr std::uint64_t kMaxBytes = 512 << 20;  // of text that it makes and goes through

  // Errors: of parse_statements; kCorruptData when it is no UTF-8; kResourceExhausted beyond kMaxSourceBytes.
  static Result<Template> parse(std::string_view source);

  // Errors: of Evaluator::run. All text of `globals` is UTF-8.
  Result<std::string> render(Dict globals, std::chrono::system_clock::time_point now) const;

 private:
  explicit Template(std::vector<Statement> statements)
      : statements_(std::make_shared<const std::vector<Statement>>(std::move(statements))) {}

  std::shared_ptr<const std::vector<Statement>> statements_;
};

}  // namespace troupe::text::jinja
