#include "runtime/text/jinja/template.h"

#include <fmt/format.h>

#include <utility>

#include "runtime/text/jinja/evaluator.h"
#include "runtime/text/jinja/parser.h"
#include "runtime/text/utf8.h"

namespace troupe::text::jinja {

Result<Template> Template::parse(std::string_view source) {
  if (source.size() > kMaxSourceBytes) {
    return resource_exhausted(
        fmt::format("a template of {} bytes; at most {} are read", source.size(), kMaxSourceBytes));
  }
  if (const auto offset = invalid_utf8_offset(source)) {
    return corrupt_data(fmt::format("the template is no UTF-8 at byte {}", *offset));
  }
  TROUPE_ASSIGN_OR_RETURN(std::vector<Statement> statements, parse_statements(source));
  return Template(std::move(statements));
}

Result<std::string> Template::render(Dict globals, std::chrono::system_clock::time_point now) const {
  Budget budget(kMaxSteps, kMaxBytes);
  return Evaluator(*statements_, std::move(globals), budget, now).run();
}

}  // namespace troupe::text::jinja
